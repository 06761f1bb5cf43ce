"""Reads the semi-supervised trainer's output for MONAI's metric and log handlers."""

from __future__ import annotations

from typing import Any

from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

__all__ = ["labeled_prediction", "loss_terms"]


def loss_terms(output: dict[str, Any]) -> dict[str, float]:
    """Every named loss term of an iteration.

    Args:
        output: ``engine.state.output`` of the semi-supervised trainer.

    Returns:
        the terms' values under "loss_<term>".
    """
    return {f"loss_{name}": value.item() for name, value in output["terms"]._asdict().items()}


def labeled_prediction(output: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Prediction and label of the labelled batch as class indices, ``(B, 1, *S)`` each.

    Args:
        output: ``engine.state.output`` of the semi-supervised trainer.
    """
    return output[Keys.PRED].detach().argmax(dim=1, keepdim=True), output[Keys.LABEL].unsqueeze(1)
