"""Code-use entropy: tokens sure of their code, codes used alike, without an N x K matrix in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vqseg_bundle.layers.nearest_code import MAX_BUFFER_ELEMENTS, full_precision

__all__ = ["code_use_entropy"]

# rows of a chunk that are worked on element by element at a time: 2 MiB at K 16,384
_BLOCK_ROWS = 32


class _CodeUseEntropy(torch.autograd.Function):
    """Forward keeps three vectors; backward recomputes the assignment chunk by chunk, in the same two buffers."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, codebook: Tensor, temperature: float, rows: int) -> Tensor:
        log_sums, token_entropies = features.new_empty(len(features)), features.new_empty(len(features))
        mean_assignment = features.new_zeros(len(codebook))
        assignment = _Assignment(features, codebook, rows)
        with full_precision(features.device.type):
            for chunk in assignment.chunks:
                for part, logits, scratch in assignment.blocks(chunk):
                    logits.mul_(-1.0 / temperature)
                    largest = logits.amax(dim=1)
                    logits.sub_(largest.unsqueeze(1))
                    weights = torch.exp(logits, out=scratch)  # p times its row's sum
                    sums = weights.sum(dim=1)
                    log_sums[part] = largest + sums.log()
                    token_entropies[part] = sums.log() - torch.linalg.vecdot(weights, logits) / sums
                    mean_assignment.addmv_(weights.t(), sums.reciprocal())
        mean_assignment /= len(features)
        ctx.save_for_backward(features, codebook, log_sums, token_entropies, mean_assignment)
        ctx.temperature, ctx.rows = temperature, rows
        return token_entropies.mean() + torch.special.xlogy(mean_assignment, mean_assignment).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        features, codebook, log_sums, token_entropies, mean_assignment = ctx.saved_tensors
        log_mean = mean_assignment.clamp_min(torch.finfo(features.dtype).tiny).log()
        grad_features, grad_codebook = torch.empty_like(features), torch.zeros_like(codebook)
        code_weight = torch.zeros_like(mean_assignment)
        assignment = _Assignment(features, codebook, ctx.rows)
        with full_precision(features.device.type):
            for chunk in assignment.chunks:
                for part, log_p, scratch in assignment.blocks(chunk):
                    log_p.mul_(-1.0 / ctx.temperature).sub_(log_sums[part].unsqueeze(1))
                    p = torch.exp(log_p, out=scratch)
                    expected = p @ log_mean
                    # dL/dlogits = p/N * (log mean - E_p[log mean] - log p - H), in place of log p
                    log_p.neg_().add_(log_mean).sub_((token_entropies[part] + expected).unsqueeze(1)).mul_(p)
                grad_logits = assignment.matrix(chunk)
                # its rows sum to zero, so the token's own vector drops out of its gradient
                torch.mm(grad_logits, assignment.codebook, out=grad_features[chunk])
                grad_codebook.addmm_(grad_logits.t(), assignment.tokens(chunk))
                code_weight += grad_logits.sum(dim=0)
        grad_codebook.addcmul_(code_weight.unsqueeze(1), assignment.codebook, value=-1.0)
        scale = grad * 2.0 / (ctx.temperature * len(features))
        return grad_features.mul_(scale), grad_codebook.mul_(scale), None, None


class _Assignment:
    """Distances of a chunk of tokens to all codes, in one buffer that the next chunk writes over."""

    def __init__(self, features: Tensor, codebook: Tensor, rows: int) -> None:
        # float32 must not cancel when the codebook sits far from the origin
        self._features, self._center = features, codebook.mean(dim=0)
        self.codebook = codebook - self._center
        self._norms = torch.linalg.vector_norm(self.codebook, dim=1).square()  # (K,)
        self.chunks = [slice(start, min(start + rows, len(features))) for start in range(0, len(features), rows)]
        self._buffer = features.new_empty(min(rows, len(features)), len(codebook))
        self._scratch = features.new_empty(min(rows, _BLOCK_ROWS), len(codebook))

    def tokens(self, chunk: slice) -> Tensor:
        return self._features[chunk] - self._center

    def matrix(self, chunk: slice) -> Tensor:
        """The buffer's part for a chunk, ``(rows, K)``."""
        return self._buffer[: chunk.stop - chunk.start]

    def blocks(self, chunk: slice) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Squared distances up to the token's own norm, which a softmax does not see, by blocks of few rows.

        One product fills the buffer; what follows element by element stays in the processor's cache.

        Yields:
            the tokens, their rows of the buffer, and scratch memory of the same size.
        """
        matrix = self.matrix(chunk)
        torch.addmm(self._norms, self.tokens(chunk), self.codebook.t(), alpha=-2.0, out=matrix)
        start = chunk.start
        for block in matrix.split(_BLOCK_ROWS):
            yield slice(start, start + len(block)), block, self._scratch[: len(block)]
            start += len(block)


def code_use_entropy(
    features: Tensor, codebook: Tensor, temperature: float = 1.0, max_elements: int = MAX_BUFFER_ELEMENTS // 2
) -> Tensor:
    r"""Mean entropy of the tokens' soft assignments minus the entropy of their mean assignment.

    .. math:: p_n = \mathrm{softmax}_k(-\lVert z_n - c_k \rVert^2 / T), \quad
              L = \frac1N \sum_n H(p_n) - H\Bigl(\frac1N \sum_n p_n\Bigr)

    The value lies in ``[-log K, 0]``; low means confident tokens spread over many codes. Equal to the plain formula
    in value and gradient; the plain formula keeps about six ``N x K`` matrices.

    Args:
        features: tokens ``(N, D)``.
        codebook: codewords ``(K, D)``, the same dtype.
        temperature: T > 0, in units of squared distance.
        max_elements: elements of one chunk's matrix.

    Returns:
        scalar, the inputs' dtype.

    Raises:
        ValueError: ``temperature`` is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    rows = max(1, max_elements // len(codebook))
    return _CodeUseEntropy.apply(features, codebook, temperature, rows)
