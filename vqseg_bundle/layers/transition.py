"""The transition law of the Quantized Perturbation Module, row by row of the codebook.

Both the sampler and the theory read these rows, so they cannot disagree.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vqseg_bundle.layers.code_products import extend_codebook, full_precision, transposed_product

__all__ = [
    "DISTANCES",
    "CodeDistances",
    "automatic_temperature",
    "log_neighbor_distribution",
    "neighbor_distribution",
    "neighbor_logits",
    "perplexity_temperature",
]

DISTANCES = ("squared_euclidean", "euclidean", "cosine")
# The automatic temperature is measured on this many codewords and this share of their nearest neighbours.
_PROBED_CODES = 64
_NEAR_SHARE = 0.02
# A temperature is searched for around the automatic one, in natural logarithms, in so many halvings.
_LOG_TEMPERATURES = 12.0
_HALVINGS = 20


class CodeDistances:
    """Distances ``d(c_i, c_j)`` within one codebook, row by row; shared quantities are computed once.

    Args:
        codebook: ``(K, D)``; converted to at least float32; no gradient reaches it.
        distance: "squared_euclidean", "euclidean" or "cosine" (one minus the cosine).

    Raises:
        ValueError: ``distance`` is unknown.
    """

    def __init__(self, codebook: Tensor, distance: str = "squared_euclidean") -> None:
        if distance not in DISTANCES:
            raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}.")
        codebook = codebook.detach().to(torch.promote_types(codebook.dtype, torch.float32))
        self.distance = distance
        points = F.normalize(codebook, dim=1) if distance == "cosine" else codebook
        # distances are unchanged, and float32 does not cancel if the codebook is far from the origin
        self._extended = extend_codebook(points, points.mean(dim=0), len(points))  # (K, D + 1)
        self.points = self._extended[:, :-1]

    def __len__(self) -> int:
        return len(self.points)

    def rows(self, codes: Tensor) -> Tensor:
        """Distances from some codes to all codes.

        Args:
            codes: ``(U,)``, int64.

        Returns:
            ``(U, K)``, the codebook's dtype, at least float32.
        """
        chosen = self._extended[codes]  # (U, D + 1)
        factors = torch.cat((chosen[:, :-1].neg(), torch.ones_like(chosen[:, :1])), dim=1)
        with full_precision(self.points.device.type):
            squared = transposed_product(self._extended, factors.mul_(2.0))  # (K, U), up to the code's own norm
        return self._from_squared(squared.add_(chosen[:, -1], alpha=2.0).clamp_min_(0.0)).t()

    def pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances between pairs of codes.

        Args:
            first: ``(N,)``, int64.
            second: ``(N,)``, int64.

        Returns:
            ``(N,)``, the codebook's dtype, at least float32.
        """
        return self._from_squared((self.points[first] - self.points[second]).square_().sum(dim=1))

    def _from_squared(self, squared: Tensor) -> Tensor:
        if self.distance == "cosine":
            return squared.mul_(0.5)
        return squared.sqrt_() if self.distance == "euclidean" else squared


def neighbor_distribution(
    codes: Tensor, codebook: Tensor, temperature: float | Tensor, distance: str = "squared_euclidean"
) -> Tensor:
    """Distribution of a replaced token: ``exp(-d_ij / T) / Z_i`` for ``j != i`` and exactly 0 for ``j = i``.

    Args:
        codes: rows wanted, ``(U,)``, int64.
        codebook: ``(K, D)``.
        temperature: T > 0, in units of ``distance``.
        distance: see :class:`CodeDistances`.

    Returns:
        ``(U, K)``, rows sum to 1.

    Raises:
        ValueError: unknown ``distance``, or fewer than 2 codewords.
    """
    return torch.softmax(neighbor_logits(codes, CodeDistances(codebook, distance), temperature), dim=1)


def log_neighbor_distribution(
    codes: Tensor, codebook: Tensor, temperature: float | Tensor, distance: str = "squared_euclidean"
) -> Tensor:
    """Logarithm of :func:`neighbor_distribution`, finite even for codes whose probability underflows.

    Args:
        codes: rows wanted, ``(U,)``, int64.
        codebook: ``(K, D)``.
        temperature: T > 0, in units of ``distance``.
        distance: see :class:`CodeDistances`.

    Returns:
        ``(U, K)``, minus infinity at ``j = i``.

    Raises:
        ValueError: unknown ``distance``, or fewer than 2 codewords.
    """
    return torch.log_softmax(neighbor_logits(codes, CodeDistances(codebook, distance), temperature), dim=1)


def neighbor_logits(codes: Tensor, distances: CodeDistances, temperature: float | Tensor) -> Tensor:
    """Logarithm of the law up to a constant per row: 0 at the nearest neighbour, minus infinity at ``j = i``.

    Args:
        codes: rows wanted, ``(U,)``, int64.
        distances: of the codebook.
        temperature: T > 0, in units of the distance.

    Returns:
        ``(U, K)``.

    Raises:
        ValueError: fewer than 2 codewords.
    """
    if len(distances) < 2:
        raise ValueError(f"codebook must hold at least 2 codewords to move between, got {len(distances)}.")
    rows = distances.rows(codes)
    rows.scatter_(1, codes.unsqueeze(1), torch.inf)
    # relative to the nearest neighbour, so that no temperature can push a whole row to minus infinity
    rows -= rows.detach().amin(dim=1, keepdim=True)
    return rows.div_(-temperature)


def automatic_temperature(codebook: Tensor | CodeDistances, distance: str = "squared_euclidean") -> Tensor:
    """The codebook's own scale: the mean distance from a code to the nearest 2 % of codewords (at least one).

    With a fixed temperature of 1 the law is nearly uniform on a codebook at initialisation and picks only nearest
    neighbours on a wide one. Measured on at most 64 evenly spaced codes: deterministic, and cheap for any K.

    Args:
        codebook: ``(K, D)``, or its distances if already available.
        distance: see :class:`CodeDistances`; not used if distances are given.

    Returns:
        positive scalar, on the codebook's device (no host synchronisation).
    """
    distances = codebook if isinstance(codebook, CodeDistances) else CodeDistances(codebook, distance)
    rows = _probed_rows(distances)
    count = max(1, round(_NEAR_SHARE * (len(distances) - 1)))
    nearest = rows.topk(count, dim=1, largest=False, sorted=False).values
    return nearest.mean().clamp_min(torch.finfo(nearest.dtype).tiny)


def perplexity_temperature(
    codebook: Tensor | CodeDistances, neighbors: float, distance: str = "squared_euclidean"
) -> Tensor:
    r"""The temperature at which a moved token is spread over a given number of codes.

    Their number is the perplexity :math:`e^{H_i}` of the law's rows, as in t-SNE
    (https://jmlr.org/papers/v9/vandermaaten08a.html), here with one T for all: the one at which the mean entropy
    :math:`H_i` is :math:`\log` ``neighbors``. Found by bisection on at most 64 evenly spaced codes.

    Args:
        codebook: ``(K, D)``, or its distances if already available.
        neighbors: the number, above 1; from K - 1 on, the law is uniform.
        distance: see :class:`CodeDistances`; not used if distances are given.

    Returns:
        positive scalar, on the codebook's device (no host synchronisation).

    Raises:
        ValueError: ``neighbors`` is not above 1.
    """
    if not neighbors > 1:
        raise ValueError(f"neighbors must be above 1, got {neighbors}.")
    distances = codebook if isinstance(codebook, CodeDistances) else CodeDistances(codebook, distance)
    rows = _probed_rows(distances)
    rows -= rows.amin(dim=1, keepdim=True)
    center = automatic_temperature(distances).log()
    low, high = center - _LOG_TEMPERATURES, center + _LOG_TEMPERATURES
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        law = torch.softmax(rows / -middle.exp(), dim=1)
        too_narrow = torch.special.entr(law).sum(dim=1).mean() < math.log(neighbors)
        low, high = torch.where(too_narrow, middle, low), torch.where(too_narrow, high, middle)
    return ((low + high) / 2).exp()


def _probed_rows(distances: CodeDistances) -> Tensor:
    """Distances from some codes to all, infinite to themselves."""
    size = len(distances)
    probed = torch.linspace(0, size - 1, min(size, _PROBED_CODES), device=distances.points.device).long()
    return distances.rows(probed).scatter_(1, probed.unsqueeze(1), torch.inf)
