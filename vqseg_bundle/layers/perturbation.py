"""The protocol of perturbations: clean post-VQ features and their codes in, perturbed features out.

A new perturbation is a module with this interface, exported by :mod:`vqseg_bundle.layers` and named in a configuration
as ``perturbation``. The training module uses nothing else of it.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["Codes", "Perturbation"]


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
