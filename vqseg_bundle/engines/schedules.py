"""The length of a training and the ramp-up of the unlabelled terms."""

from __future__ import annotations

import math

__all__ = ["iteration_budget", "sigmoid_ramp_up"]


def iteration_budget(max_epochs: int, iterations_per_epoch: int, max_iterations: int | None = None) -> int:
    """Number of iterations of a run: ``max_iterations``, unless ``max_epochs`` was overridden.

    Normally ``max_epochs`` is ``ceil(max_iterations / iterations_per_epoch)``, and the last epoch may be short. If
    ``max_epochs`` is overridden, as MONAI Label always does, the run has that many complete epochs.

    Args:
        max_epochs: epochs of the trainer.
        iterations_per_epoch: iterations of a complete epoch.
        max_iterations: the requested budget, or None.

    Returns:
        number of optimiser steps.

    Raises:
        ValueError: a count is below 1.
    """
    if max_epochs < 1 or iterations_per_epoch < 1 or (max_iterations is not None and max_iterations < 1):
        raise ValueError(
            "max_epochs, iterations_per_epoch and max_iterations must be at least 1, "
            f"got {max_epochs}, {iterations_per_epoch} and {max_iterations}."
        )
    if max_iterations is not None and math.ceil(max_iterations / iterations_per_epoch) == max_epochs:
        return max_iterations
    return max_epochs * iterations_per_epoch


def sigmoid_ramp_up(progress: float, share: float) -> float:
    r"""Weight of the unlabelled terms: :math:`e^{-5 (1 - t)^2}`, t rising from 0 to 1 over a share of the training.

    Laine and Aila, Temporal Ensembling, 2017 (https://arxiv.org/abs/1610.02242), as UA-MT uses it.

    Args:
        progress: completed share of all iterations, in [0, 1].
        share: share of the training that the ramp takes, in [0, 1]; 0 disables it.

    Returns:
        factor in (0, 1].
    """
    if share <= 0 or progress >= share:
        return 1.0
    return math.exp(-5.0 * (1.0 - progress / share) ** 2)
