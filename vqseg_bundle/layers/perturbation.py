"""The protocol of perturbations of post-VQ features, and the one that needs no codes."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

__all__ = ["Codes", "FeatureDropout", "Perturbation"]


class Codes(NamedTuple):
    """A quantiser's choice.

    Attributes:
        indices: ``(B, *S)``, int64 in ``[0, K)``.
        codebook: ``(K, D)``.
    """

    indices: Tensor
    codebook: Tensor


class Perturbation(Protocol):
    """Perturbs a feature map, in both ``train`` and ``eval`` mode: the caller decides when.

    Attributes:
        needs_codes: whether it needs codes, so that a map without a quantiser cannot be perturbed.
    """

    needs_codes: bool

    def __call__(
        self, features: Tensor, codes: Codes | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Perturbed copy of ``features``, ``(B, D, *S)``; deterministic given the state of ``generator``.

        Args:
            features: clean post-VQ features.
            codes: the codes of these features, if they have any.
            generator: source of randomness; None uses torch's global one.
        """
        ...


_MODES = ("channel", "element")


class FeatureDropout(nn.Module):
    r"""Perturb a feature map (a :class:`~vqseg_bundle.layers.Perturbation`); codes are not read.

    .. math:: f' = \frac{m \odot f}{1 - p}, \qquad m \sim \mathrm{Bernoulli}(1 - p)

    with one draw per channel of each image ("channel", as ``nn.Dropout2d``) or one per element ("element").

    Active in both ``train`` and ``eval`` mode: the caller decides when to perturb.

    Args:
        perturb_prob: dropout rate p in [0, 1).
        mode: "channel" or "element".

    Shape:
        - features: ``(B, D, *S)``, floating point.
        - output: like ``features``, with gradient to the kept elements.

    Raises:
        ValueError: ``perturb_prob`` outside [0, 1), or an unknown ``mode``.
    """

    needs_codes = False

    def __init__(self, perturb_prob: float = 0.5, mode: str = "channel") -> None:
        super().__init__()
        if not 0.0 <= perturb_prob < 1.0:
            raise ValueError(f"perturb_prob (the dropout rate) must lie in [0, 1), got {perturb_prob}.")
        if mode not in _MODES:
            raise ValueError(f'mode must be "channel" or "element", got {mode!r}.')
        self.perturb_prob = perturb_prob
        self.mode = mode

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"perturb_prob={self.perturb_prob}, mode={self.mode}"

    def forward(self, features: Tensor, codes: Codes | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Perturbed copy of ``features``; deterministic given the state of ``generator``."""
        if self.perturb_prob == 0.0:
            return features.clone()
        shape = features.shape
        drawn = shape if self.mode == "element" else (*shape[:2], *[1] * (len(shape) - 2))
        kept = features.new_empty(drawn).bernoulli_(1.0 - self.perturb_prob, generator=generator)
        return features * (kept / (1.0 - self.perturb_prob))
