"""What every perturbation of post-VQ features is: clean features and their codes in, perturbed features out.

A new one is a module of this form, exported by :mod:`vqseg_bundle.layers` and named in a configuration as
``perturbation``; the training module knows no more of it than this.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["Codes", "Perturbation"]


class Codes(NamedTuple):
    """What a quantiser chose.

    Attributes:
        indices: ``(B, *S)``, int64 in ``[0, K)``.
        codebook: ``(K, D)``.
    """

    indices: Tensor
    codebook: Tensor


class Perturbation(Protocol):
    """Perturbs a feature map, in ``train`` and ``eval`` mode alike: the caller decides when.

    Attributes:
        needs_codes: whether it works on codes, so that a map without quantiser cannot be perturbed.
    """

    needs_codes: bool

    def __call__(
        self, features: Tensor, codes: Codes | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Perturbed copy of ``features``, ``(B, D, *S)``; the same for the same state of ``generator``.

        Args:
            features: clean post-VQ features.
            codes: the codes of these features; None for a map that has none.
            generator: randomness; None is torch's global one.
        """
        ...
