"""Pseudo-labels of unlabelled images, and the protocol of pseudo-labellers."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["PseudoLabeler", "PseudoLabels"]


class PseudoLabels(NamedTuple):
    """Pseudo-labels of a batch. Hard labels and their confidence are computed on access.

    Attributes:
        probabilities: ``(B, C, *S)``, float32, of the classes.
        entropy: ``(B, *S)``, float32, the predictive entropy in nats; empty if the labeller does not estimate it.
    """

    probabilities: Tensor
    entropy: Tensor

    @property
    def labels(self) -> Tensor:
        """``(B, *S)``, int64, the most probable class."""
        return self.probabilities.max(dim=1).indices

    @property
    def confidence(self) -> Tensor:
        """``(B, *S)``, float32, that class's probability."""
        return self.probabilities.max(dim=1).values


class PseudoLabeler(Protocol):
    """Labels the weak view of the unlabelled batch."""

    def pseudo_label(self, images: Tensor, generator: torch.Generator | None = None) -> PseudoLabels:
        """Pseudo-labels of unperturbed, weakly augmented images.

        Args:
            images: ``(B, C, *S)``.
            generator: source of randomness, for labellers that need it.
        """
