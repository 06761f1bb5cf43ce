"""Quantities from the semi-supervised trainer's output: loss terms, predictions, confidence of pseudo-labels."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Average
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

__all__ = ["PseudoLabelConfidence", "labeled_prediction", "loss_terms"]


def loss_terms(output: dict[str, Any]) -> dict[str, float]:
    """Every loss term of an iteration's output, under "loss_<term>"."""
    return {f"loss_{name}": value.item() for name, value in output["terms"]._asdict().items()}


def labeled_prediction(output: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Prediction and label of the labelled batch as class indices, ``(B, 1, *S)`` each.

    Args:
        output: ``engine.state.output`` of the semi-supervised trainer.
    """
    return output[Keys.PRED].detach().argmax(dim=1, keepdim=True), output[Keys.LABEL].unsqueeze(1)


class PseudoLabelConfidence:
    """Mean confidence of the pseudo-labels of an epoch, and the share of their pixels above a threshold.

    At the end of an epoch ``engine.state.metrics`` gets "pseudo_label_confidence" and "pseudo_label_share", means over
    its iterations and all processes. Read from ``engine.state.output["pseudo_labels"]``, after CutMix: the student's
    targets.

    Args:
        threshold: confidence threshold, in [0, 1].
        device: where to accumulate; the training's device avoids a wait in each iteration.

    Raises:
        ValueError: ``threshold`` outside [0, 1].
    """

    def __init__(self, threshold: float = 0.95, device: str | torch.device = "cpu") -> None:
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}.")
        self.threshold = threshold
        self.device = torch.device(device)

    def attach(self, engine: Engine) -> None:
        """Attach to a semi-supervised trainer with unlabelled data."""
        Average(self._mean, self.device).attach(engine, "pseudo_label_confidence")
        Average(self._share, self.device).attach(engine, "pseudo_label_share")

    def _mean(self, output: dict[str, Any]) -> Tensor:
        return output["pseudo_labels"].confidence.mean()

    def _share(self, output: dict[str, Any]) -> Tensor:
        return (output["pseudo_labels"].confidence >= self.threshold).float().mean()
