"""The transition law of the Quantized Perturbation Module, row by row of the codebook.

Both the sampler and the theory read these rows, so they cannot disagree.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vqseg_bundle.layers.nearest_code import full_precision, squared_distances

__all__ = ["DISTANCES", "automatic_temperature", "code_distances", "log_neighbor_distribution", "neighbor_distribution"]

DISTANCES = ("squared_euclidean", "euclidean", "cosine")
# The automatic temperature is read from this many codewords and this share of their nearest neighbours.
_PROBED_CODES = 256
_NEAR_SHARE = 0.02


def code_distances(codes: Tensor, codebook: Tensor, distance: str = "squared_euclidean") -> Tensor:
    """Distances ``d(c_i, c_j)`` from some codes to all.

    Args:
        codes: ``(U,)``, int64.
        codebook: ``(K, D)``.
        distance: "squared_euclidean", "euclidean" or "cosine" (one minus the cosine).

    Returns:
        ``(U, K)``, the codebook's dtype, at least float32.

    Raises:
        ValueError: unknown ``distance``.
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}.")
    codebook = codebook.to(torch.promote_types(codebook.dtype, torch.float32))
    with full_precision(codebook.device.type):
        if distance == "cosine":
            unit = F.normalize(codebook, dim=1)
            return squared_distances(unit[codes], unit) * 0.5
        centered = codebook - codebook.mean(dim=0)
        squared = squared_distances(centered[codes], centered)
        return squared.sqrt_() if distance == "euclidean" else squared


def neighbor_distribution(
    codes: Tensor, codebook: Tensor, temperature: float | Tensor, distance: str = "squared_euclidean"
) -> Tensor:
    """Where a replaced token goes: ``exp(-d_ij / T) / Z_i`` for ``j != i`` and exactly 0 at ``j = i``.

    Args:
        codes: rows wanted, ``(U,)``, int64.
        codebook: ``(K, D)``.
        temperature: T > 0, in units of ``distance``.
        distance: see :func:`code_distances`.

    Returns:
        ``(U, K)``, rows sum to 1.

    Raises:
        ValueError: unknown ``distance``, or fewer than 2 codewords.
    """
    return torch.softmax(_neighbor_logits(codes, codebook, temperature, distance), dim=1)


def log_neighbor_distribution(
    codes: Tensor, codebook: Tensor, temperature: float | Tensor, distance: str = "squared_euclidean"
) -> Tensor:
    """Logarithm of :func:`neighbor_distribution`: finite for codes so far away that their probability underflows.

    Args:
        codes: rows wanted, ``(U,)``, int64.
        codebook: ``(K, D)``.
        temperature: T > 0, in units of ``distance``.
        distance: see :func:`code_distances`.

    Returns:
        ``(U, K)``, minus infinity at ``j = i``.

    Raises:
        ValueError: unknown ``distance``, or fewer than 2 codewords.
    """
    return torch.log_softmax(_neighbor_logits(codes, codebook, temperature, distance), dim=1)


def _neighbor_logits(codes: Tensor, codebook: Tensor, temperature: float | Tensor, distance: str) -> Tensor:
    if len(codebook) < 2:
        raise ValueError(f"codebook must hold at least 2 codewords to move between, got {len(codebook)}.")
    distances = code_distances(codes, codebook, distance)
    distances.scatter_(1, codes.unsqueeze(1), torch.inf)
    # counted from the nearest neighbour on, so that no temperature can push a whole row to minus infinity
    distances -= distances.detach().amin(dim=1, keepdim=True)
    return distances.neg_().div_(temperature)


def automatic_temperature(codebook: Tensor, distance: str = "squared_euclidean") -> Tensor:
    """The codebook's own scale: the mean distance of a code to its nearest 2 % of codewords (at least one).

    A fixed temperature of 1 is nearly uniform on a codebook at initialisation and nearest-neighbour only on a wide
    one. Read from at most 256 evenly spaced codes, so it is deterministic and costs little at any K.

    Args:
        codebook: ``(K, D)``.
        distance: see :func:`code_distances`.

    Returns:
        positive scalar, on the codebook's device (no host synchronisation).
    """
    size = len(codebook)
    probed = torch.linspace(0, size - 1, min(size, _PROBED_CODES), device=codebook.device).long()
    distances = code_distances(probed, codebook, distance)
    distances.scatter_(1, probed.unsqueeze(1), torch.inf)
    nearest = distances.topk(max(1, round(_NEAR_SHARE * (size - 1))), dim=1, largest=False).values
    return nearest.mean().clamp_min(torch.finfo(nearest.dtype).tiny)
