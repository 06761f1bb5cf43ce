"""The EMA teacher: an average of the student over time, which gives the pseudo-labels and is deployed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vqseg_bundle.engines.pseudo_labels import PseudoLabels

__all__ = ["EMATeacher"]


class EMATeacher(AveragedModel):
    r"""Exponential moving average of a network and its buffers, without shared tensors.

    After update number t the average is :math:`\theta' \leftarrow \alpha_t \theta' + (1 - \alpha_t)\,\theta` with the
    warm-up :math:`\alpha_t = \min(\alpha, 1 - 1 / (t + 1))`, so that the first steps do not average random weights.
    Integer buffers are copied.

    Args:
        network: the student; the teacher starts as its copy.
        decay: :math:`\alpha` in [0, 1), the paper's 0.99.

    Attributes:
        module: the averaged network, in eval mode and without gradient.

    Raises:
        ValueError: ``decay`` outside [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float = 0.99) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must lie in [0, 1), got {decay}.")
        super().__init__(network, multi_avg_fn=self._average, use_buffers=True)
        self.decay = decay
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> EMATeacher:
        """Stay in eval mode: the teacher's normalisation and dropout are never in train mode."""
        return super().train(False)

    def pseudo_label(self, images: Tensor, generator: torch.Generator | None = None) -> PseudoLabels:
        """Pseudo-labels of unperturbed, weakly augmented images.

        Args:
            images: ``(B, C, *S)``.
            generator: not used.
        """
        with torch.inference_mode():
            probabilities = self.module(images).float().softmax(dim=1)
        # tensors made in inference mode cannot be saved for a backward pass; their copies can
        return PseudoLabels(probabilities.clone(), images.new_empty(0))

    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        decay = min(self.decay, 1.0 - 1.0 / (int(updates) + 1))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(list(averaged), list(current), 1.0 - decay)
        else:
            torch._foreach_copy_(list(averaged), list(current))
