"""The student as its own pseudo-labeller, as in FixMatch and UniMatch (https://arxiv.org/abs/2208.09910)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqseg_bundle.engines.module_modes import modes_kept
from vqseg_bundle.engines.pseudo_labels import PseudoLabels

__all__ = ["StudentPseudoLabeler"]


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
