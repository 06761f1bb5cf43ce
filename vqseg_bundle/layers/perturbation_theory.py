"""How far a perturbation moves the distribution of features: the radius of QPM and of dropout (VQ-Seg, appendix)."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from vqseg_bundle.layers.code_products import MAX_BUFFER_ELEMENTS
from vqseg_bundle.layers.transition import automatic_temperature, log_neighbor_distribution, neighbor_distribution

__all__ = ["dropout_kl_divergence", "perturbed_marginal", "qpm_kl_divergence", "transition_matrix"]

# one chunk needs its distances, their log probabilities and a copy of one of them at the same time
_CHUNK_ELEMENTS = MAX_BUFFER_ELEMENTS // 2


def transition_matrix(
    codebook: Tensor,
    perturb_prob: float,
    temperature: float | str = 1.0,
    distance: str = "squared_euclidean",
) -> Tensor:
    r"""The whole law :math:`\pi(j|i)` of the QPM as a matrix, for small codebooks.

    Args:
        codebook: ``(K, D)``.
        perturb_prob: :math:`\epsilon` in [0, 1].
        temperature: T > 0, or "auto".
        distance: "squared_euclidean", "euclidean" or "cosine".

    Returns:
        ``(K, K)``, row i being :math:`\pi(\cdot|i)`; rows sum to 1.

    Raises:
        ValueError: ``perturb_prob`` outside [0, 1].
    """
    scale = _checked_temperature(codebook, perturb_prob, temperature, distance)
    codes = torch.arange(len(codebook), device=codebook.device)
    matrix = neighbor_distribution(codes, codebook, scale, distance) * perturb_prob
    matrix.fill_diagonal_(1.0 - perturb_prob)
    return matrix


def perturbed_marginal(
    codebook: Tensor,
    perturb_prob: float,
    temperature: float | str = 1.0,
    distance: str = "squared_euclidean",
) -> Tensor:
    r"""Distribution of codes after the QPM, starting from a uniform one.

    .. math:: Q(c_j|\epsilon) = \frac1K \Bigl[(1 - \epsilon) + \epsilon \sum_{i \ne j} \frac{e^{-d_{ij}/T}}{Z_i}\Bigr]

    Rows are summed in chunks, so K = 65,536 needs no K x K matrix.

    Args:
        codebook: ``(K, D)``.
        perturb_prob: :math:`\epsilon` in [0, 1].
        temperature: T > 0, or "auto".
        distance: "squared_euclidean", "euclidean" or "cosine".

    Returns:
        ``(K,)``, sums to 1.

    Raises:
        ValueError: ``perturb_prob`` outside [0, 1].
    """
    return _log_density_ratio(codebook, perturb_prob, temperature, distance).exp() / len(codebook)


def qpm_kl_divergence(
    codebook: Tensor,
    perturb_prob: float,
    temperature: float | str = 1.0,
    distance: str = "squared_euclidean",
) -> Tensor:
    r"""Radius of the QPM: :math:`\mathrm{KL}(P \Vert Q) = \frac1K \sum_j \log \frac{1}{K\,Q(c_j|\epsilon)}`.

    Finite for every strength, and bounded even at :math:`\epsilon = 1`.

    Args:
        codebook: ``(K, D)``.
        perturb_prob: :math:`\epsilon` in [0, 1].
        temperature: T > 0, or "auto".
        distance: "squared_euclidean", "euclidean" or "cosine".

    Returns:
        scalar, nats.

    Raises:
        ValueError: ``perturb_prob`` outside [0, 1].
    """
    return -_log_density_ratio(codebook, perturb_prob, temperature, distance).mean()


def dropout_kl_divergence(p: float) -> float:
    r"""Radius of dropout, by moment matching for a Gaussian feature: :math:`\frac12 (\frac{p}{1-p} + \log(1-p))`.

    Unbounded as the rate approaches 1, which is the paper's argument against dropout.

    Args:
        p: dropout rate in [0, 1).

    Returns:
        nats.

    Raises:
        ValueError: ``p`` outside [0, 1).
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"p (dropout rate) must lie in [0, 1), got {p}.")
    return 0.5 * (p / (1.0 - p) + math.log1p(-p))


def _log_density_ratio(codebook: Tensor, perturb_prob: float, temperature: float | str, distance: str) -> Tensor:
    """``log(Q / P)`` of every code, ``(K,)``; in logarithms, since the probability of a far code underflows."""
    scale = _checked_temperature(codebook, perturb_prob, temperature, distance)
    rows = max(1, _CHUNK_ELEMENTS // len(codebook))
    codes = torch.arange(len(codebook), device=codebook.device)
    sums = (log_neighbor_distribution(chunk, codebook, scale, distance).logsumexp(dim=0) for chunk in codes.split(rows))
    incoming = functools.reduce(torch.logaddexp, sums)  # (K,)
    moved = torch.tensor(perturb_prob, dtype=incoming.dtype, device=incoming.device)
    return torch.logaddexp(torch.log1p(-moved), moved.log() + incoming)


def _checked_temperature(
    codebook: Tensor, perturb_prob: float, temperature: float | str, distance: str
) -> float | Tensor:
    if not 0.0 <= perturb_prob <= 1.0:
        raise ValueError(f"perturb_prob (the paper's eps) must lie in [0, 1], got {perturb_prob}.")
    if temperature == "auto":
        return automatic_temperature(codebook, distance)
    if isinstance(temperature, str) or not temperature > 0:
        raise ValueError(f'temperature must be a positive number or "auto", got {temperature!r}.')
    return temperature
