"""Code-use entropy, which favours confident tokens and evenly used codes, without an N x K matrix in memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from vqseg_bundle.common import process_count
from vqseg_bundle.layers.code_products import extend_codebook, full_precision, transposed_product

__all__ = ["code_use_entropy"]

# A chunk's matrix stays in the processor's cache; products with fewer columns would run at half the speed.
_MATRIX_ELEMENTS = 2**20
_MIN_COLUMNS = 64
# Rows of the codebook's gradient added at a time, which bounds the size of a copy.
_ADDED_CODES = 1024


class _CodeUseEntropy(torch.autograd.Function):
    """Forward keeps three vectors; backward recomputes the assignment chunk by chunk. Matrices are codes by tokens."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, codebook: Tensor, temperature: float, columns: int, weights: Tensor | None
    ) -> Tensor:
        log_sums, token_entropies = features.new_empty(len(features)), features.new_empty(len(features))
        mean_assignment = features.new_zeros(len(codebook))
        distances = _HalfDistances(features, codebook)
        with full_precision(features.device.type):
            for chunk in distances.chunks(columns):
                logits = distances.columns(chunk).mul_(-2.0 / temperature)
                largest = logits.amax(dim=0)
                logits.sub_(largest)
                scaled = logits.exp()  # p times its column's sum
                sums = scaled.sum(dim=0)
                log_sums[chunk] = largest + sums.log()
                shares = sums.reciprocal() if weights is None else weights[chunk] / sums
                mean_assignment.addmv_(scaled, shares)
                token_entropies[chunk] = sums.log() - scaled.mul_(logits).sum(dim=0) / sums
        mean_assignment, share = _over_processes(mean_assignment, len(features))
        ctx.save_for_backward(features, codebook, log_sums, token_entropies, mean_assignment)
        ctx.temperature, ctx.columns, ctx.share, ctx.weights = temperature, columns, share, weights
        total = token_entropies.sum() if weights is None else token_entropies @ weights
        return total / share + torch.special.xlogy(mean_assignment, mean_assignment).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        features, codebook, log_sums, token_entropies, mean_assignment = ctx.saved_tensors
        log_mean = mean_assignment.clamp_min(torch.finfo(features.dtype).tiny).log()
        grad_features, grad_codebook = torch.empty_like(features), torch.zeros_like(codebook)
        code_weight = torch.zeros_like(mean_assignment)
        distances = _HalfDistances(features, codebook)
        with full_precision(features.device.type):
            for chunk in distances.chunks(ctx.columns):
                log_p = distances.columns(chunk).mul_(-2.0 / ctx.temperature).sub_(log_sums[chunk])
                p = log_p.exp()
                expected = log_mean @ p
                # dL/dlogits = w p/N * (log mean - E_p[log mean] - log p - H), in place of log p
                grad_logits = log_p.neg_().add_(log_mean.unsqueeze(1)).sub_(token_entropies[chunk] + expected).mul_(p)
                if ctx.weights is not None:
                    grad_logits.mul_(ctx.weights[chunk])
                del p
                # its columns sum to zero, so the token's own vector drops out of its gradient
                torch.mm(grad_logits.t(), distances.codebook, out=grad_features[chunk])
                _add_products(grad_codebook, grad_logits, distances.tokens(chunk))
                code_weight += grad_logits.sum(dim=1)
        grad_codebook.addcmul_(code_weight.unsqueeze(1), distances.codebook, value=-1.0)
        scale = grad * 2.0 / (ctx.temperature * ctx.share)
        return grad_features.mul_(scale), grad_codebook.mul_(scale), None, None, None


def _over_processes(assignment: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Mean assignment of the tokens of all processes, and the mean number of tokens per process.

    DistributedDataParallel averages gradients: divided by that number, they equal those of all tokens together.
    """
    sums = torch.cat((assignment, assignment.new_tensor([tokens])))
    if process_count() > 1:
        dist.all_reduce(sums)
    return sums[:-1] / sums[-1], sums[-1] / process_count()


class _HalfDistances:
    """Half the squared distances of all codes to chunks of tokens, up to the token's norm, which a softmax ignores."""

    def __init__(self, features: Tensor, codebook: Tensor) -> None:
        # float32 must not cancel if the codebook is far from the origin
        self._features, self._center = features, codebook.mean(dim=0)
        self._extended = extend_codebook(codebook, self._center, len(codebook))  # (K, D + 1)

    @property
    def codebook(self) -> Tensor:
        """Centred, ``(K, D)``."""
        return self._extended[:, :-1]

    def chunks(self, columns: int) -> list[slice]:
        total = len(self._features)
        return [slice(start, min(start + columns, total)) for start in range(0, total, columns)]

    def tokens(self, chunk: slice) -> Tensor:
        """Centred, ``(columns, D)``."""
        return self._features[chunk] - self._center

    def columns(self, chunk: slice) -> Tensor:
        """``(K, columns)``."""
        tokens = self.tokens(chunk)
        return transposed_product(self._extended, torch.cat((-tokens, torch.ones_like(tokens[:, :1])), dim=1))


def _add_products(total: Tensor, matrix: Tensor, tokens: Tensor) -> None:
    """``total += matrix @ tokens``."""
    transposed = tokens.t().contiguous()
    for part, rows in zip(total.split(_ADDED_CODES), matrix.split(_ADDED_CODES), strict=True):
        part += transposed_product(rows, transposed)


def code_use_entropy(
    features: Tensor,
    codebook: Tensor,
    temperature: float = 1.0,
    max_elements: int | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Mean entropy of the tokens' soft assignments minus the entropy of their mean assignment.

    .. math:: p_n = \mathrm{softmax}_k(-\lVert z_n - c_k \rVert^2 / T), \quad
              L = \frac1N \sum_n w_n H(p_n) - H\Bigl(\frac1N \sum_n w_n p_n\Bigr)

    The value lies in ``[-log K, 0]``; low means confident tokens spread over many codes. Value and gradient equal those
    of the plain formula, which keeps about six ``N x K`` matrices. If several processes train together, the mean
    assignment is over all their tokens, and the means of their values and gradients equal those of one process with all
    tokens.

    Args:
        features: tokens ``(N, D)``.
        codebook: codewords ``(K, D)``, of the same dtype.
        temperature: T > 0, in units of squared distance.
        max_elements: elements of one chunk's matrix; None means 2**20, but at least 64 tokens at a time.
        weights: :math:`w_n`, ``(N,)``, without gradient, with mean 1 over the tokens of all processes, such as
            :func:`~vqseg_bundle.layers.class_balance`; None weighs all tokens alike.

    Returns:
        scalar, in the inputs' dtype.

    Raises:
        ValueError: ``temperature`` is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    if max_elements is None:
        max_elements = max(_MATRIX_ELEMENTS, _MIN_COLUMNS * len(codebook))
    columns = max(1, max_elements // len(codebook))
    return _CodeUseEntropy.apply(features, codebook, temperature, columns, weights)
