"""The Quantized Perturbation Module (QPM): noise in the space of code indices instead of dropout.

VQ-Seg (arXiv 2601.10124): a token with code i keeps it with probability 1 - eps, and otherwise moves to code j with
probability proportional to exp(-d(c_i, c_j)). The abstract describes another form, which shuffles the positions of the
indices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqseg_bundle.layers.neighbor_sampling import draw_neighbors
from vqseg_bundle.layers.perturbation import Codes
from vqseg_bundle.layers.transition import DISTANCES, CodeDistances, automatic_temperature, perplexity_temperature
from vqseg_bundle.layers.vector_quantizer import lookup

__all__ = ["QuantizedPerturbation"]


class QuantizedPerturbation(nn.Module):
    r"""Perturb the codes of a feature map (a :class:`~vqseg_bundle.layers.Perturbation`).

    Transition form, with strength :math:`\epsilon` and temperature T:

    .. math:: \pi(i|i) = 1 - \epsilon, \qquad
              \pi(j|i) = \epsilon \frac{e^{-d(c_i, c_j) / T}}{\sum_{k \ne i} e^{-d(c_i, c_k) / T}} \quad (j \ne i)

    Shuffle form: in each image, ``round(eps N)`` random tokens swap positions in one cycle.

    A moved token has the value of its new codeword and passes its gradient to the feature it replaces. Active in both
    ``train`` and ``eval`` mode: the caller decides when to perturb.

    Args:
        perturb_prob: :math:`\epsilon` in [0, 1].
        temperature: T > 0 in units of the distance, or "auto" to follow the codebook's own scale
            (:func:`~vqseg_bundle.layers.automatic_temperature`).
        mode: "transition" or "shuffle".
        distance: "squared_euclidean", "euclidean" or "cosine".
        neighbors: number of codes that a moved token is spread over, above 1, which sets T at each call
            (:func:`~vqseg_bundle.layers.perplexity_temperature`); None leaves it to ``temperature``.

    Shape:
        - features: ``(B, D, *S)``, the clean post-VQ features.
        - codes: indices ``(B, *S)``, int64 in ``[0, K)``, and the codebook ``(K, D)``.
        - output: like ``features``.

    Raises:
        ValueError: ``perturb_prob`` outside [0, 1], a temperature that is not positive, ``neighbors`` not above 1, or
            an unknown ``mode`` or ``distance``.
    """

    needs_codes = True

    def __init__(
        self,
        perturb_prob: float = 0.7,
        temperature: float | str = 1.0,
        mode: str = "transition",
        distance: str = "squared_euclidean",
        neighbors: float | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= perturb_prob <= 1.0:
            raise ValueError(f"perturb_prob (the paper's eps) must lie in [0, 1], got {perturb_prob}.")
        if isinstance(temperature, str) and temperature != "auto":
            raise ValueError(f'temperature must be a positive number or "auto", got {temperature!r}.')
        if not isinstance(temperature, str) and not temperature > 0:
            raise ValueError(f'temperature must be a positive number or "auto", got {temperature}.')
        if mode not in ("transition", "shuffle"):
            raise ValueError(f'mode must be "transition" or "shuffle", got {mode!r}.')
        if distance not in DISTANCES:
            raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}.")
        if neighbors is not None and not neighbors > 1:
            raise ValueError(f"neighbors must be above 1, or None for temperature, got {neighbors}.")
        self.perturb_prob = perturb_prob
        self.temperature = temperature
        self.mode = mode
        self.distance = distance
        self.neighbors = neighbors

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return (
            f"perturb_prob={self.perturb_prob}, temperature={self.temperature}, "
            f"mode={self.mode}, distance={self.distance}, neighbors={self.neighbors}"
        )

    def forward(self, features: Tensor, codes: Codes | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Perturbed copy of ``features``; deterministic given the state of ``generator``.

        Raises:
            ValueError: ``codes`` is None.
        """
        if codes is None:
            raise ValueError("QuantizedPerturbation needs the codes of the features, got None: quantise them first.")
        codewords = lookup(self.perturb_indices(codes.indices, codes.codebook, generator), codes.codebook.detach())
        return codewords.to(features.dtype) + (features - features.detach())

    @torch.no_grad()
    def perturb_indices(self, indices: Tensor, codebook: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Perturbed copy of ``indices``, ``(B, *S)``; deterministic given the state of ``generator``."""
        if self.perturb_prob == 0.0:
            return indices.clone()
        if self.mode == "shuffle":
            return self._shuffle(indices, generator)
        return self._transition(indices, codebook.detach(), generator)

    def _shuffle(self, indices: Tensor, generator: torch.Generator | None) -> Tensor:
        flat = indices.flatten(1)  # (B, N)
        count = round(self.perturb_prob * flat.shape[1])
        order = torch.rand(flat.shape, device=flat.device, generator=generator).argsort(dim=1)
        chosen = order[:, :count]
        return flat.scatter(1, chosen, flat.gather(1, chosen.roll(1, dims=1))).view_as(indices)

    def _transition(self, indices: Tensor, codebook: Tensor, generator: torch.Generator | None) -> Tensor:
        moved = torch.rand(indices.shape, device=indices.device, generator=generator) < self.perturb_prob
        distances = CodeDistances(codebook, self.distance)
        output = indices.clone()
        output[moved] = draw_neighbors(indices[moved], distances, self._temperature(distances), generator)
        return output

    def _temperature(self, distances: CodeDistances) -> float | Tensor:
        if self.neighbors is not None:
            return perplexity_temperature(distances, self.neighbors)
        return automatic_temperature(distances) if isinstance(self.temperature, str) else self.temperature
