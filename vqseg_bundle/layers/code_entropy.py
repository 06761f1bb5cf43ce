"""Code-use entropy: tokens sure of their code, codes used alike, without an N x K matrix in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vqseg_bundle.layers.nearest_code import MAX_BUFFER_ELEMENTS, full_precision, squared_distances

__all__ = ["code_use_entropy"]


class _CodeUseEntropy(torch.autograd.Function):
    """Forward keeps three vectors; backward recomputes the assignment chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, codebook: Tensor, temperature: float, rows: int) -> Tensor:
        with full_precision(features.device.type):
            token_entropies = features.new_empty(len(features))
            mean_assignment = features.new_zeros(len(codebook))
            for start in range(0, len(features), rows):
                log_p = _log_assignment(features[start : start + rows], codebook, temperature)
                p = log_p.exp()
                token_entropies[start : start + rows] = -torch.linalg.vecdot(p, log_p)
                mean_assignment += p.sum(dim=0)
            mean_assignment /= len(features)
        ctx.save_for_backward(features, codebook, token_entropies, mean_assignment)
        ctx.temperature, ctx.rows = temperature, rows
        return token_entropies.mean() + torch.special.xlogy(mean_assignment, mean_assignment).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        features, codebook, token_entropies, mean_assignment = ctx.saved_tensors
        log_mean = mean_assignment.clamp_min(torch.finfo(features.dtype).tiny).log()
        grad_features = torch.empty_like(features)
        grad_codebook = torch.zeros_like(codebook)
        code_weight = torch.zeros_like(mean_assignment)
        with full_precision(features.device.type):
            for start in range(0, len(features), ctx.rows):
                chunk = slice(start, start + ctx.rows)
                log_p = _log_assignment(features[chunk], codebook, ctx.temperature)
                p = log_p.exp()
                expected = (p @ log_mean).unsqueeze(1)
                # dL/dlogits = p/N * (log mean - E_p[log mean] - log p - H)
                grad_logits = log_mean - log_p - (token_entropies[chunk].unsqueeze(1) + expected)
                grad_logits *= p
                # the rows of grad_logits sum to zero, so the token's own vector drops out of its gradient
                grad_features[chunk] = grad_logits @ codebook
                grad_codebook += grad_logits.t() @ features[chunk]
                code_weight += grad_logits.sum(dim=0)
        grad_codebook -= code_weight.unsqueeze(1) * codebook
        scale = grad * 2.0 / (ctx.temperature * len(features))
        return grad_features * scale, grad_codebook * scale, None, None


def _log_assignment(features: Tensor, codebook: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(squared_distances(features, codebook).div_(-temperature), dim=1)  # (rows, K)


def code_use_entropy(
    features: Tensor, codebook: Tensor, temperature: float = 1.0, max_elements: int = MAX_BUFFER_ELEMENTS // 4
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
    center = codebook.detach().mean(dim=0)
    rows = max(1, max_elements // len(codebook))
    return _CodeUseEntropy.apply(features - center, codebook - center, temperature, rows)
