"""Pseudo-labels, what gives them, and the student as its own pseudo-labeller (FixMatch, UniMatch)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

__all__ = ["PseudoLabeler", "PseudoLabels", "StudentPseudoLabeler", "modes_kept"]


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
        """``(B, *S)``, int64, the most probable class; C where none has any probability: pasted from "ignore"."""
        confidence, classes = self.probabilities.max(dim=1)
        return classes.where(confidence > 0, self.probabilities.shape[1])

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


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """Restore every module's mode, train or eval, at the end of the block.

    Args:
        network: its mode may change in the block.
    """
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class StudentPseudoLabeler:
    """Pseudo-labels from the trained network itself, in eval mode and without gradient.

    Modes are restored afterwards, and buffers do not change. UniMatch's code labels in train mode if the pass is
    shared, otherwise in eval mode; the two agree for a network with neither batch normalisation nor dropout.

    Args:
        network: the student itself, not its distributed wrapper.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def pseudo_label(self, images: Tensor, generator: torch.Generator | None = None) -> PseudoLabels:
        """Pseudo-labels of weakly augmented images.

        Args:
            images: ``(B, C, *S)``.
            generator: not used.
        """
        with modes_kept(self.network), torch.inference_mode():
            self.network.eval()
            probabilities = self.network(images).float().softmax(dim=1)
        # PyTorch before pull request 165068: autocast would reuse its casts without gradient in the training pass
        torch.clear_autocast_cache()
        # tensors made in inference mode cannot be saved for a backward pass; their copies can
        return PseudoLabels(probabilities.clone(), images.new_empty(0))
