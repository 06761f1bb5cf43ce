"""How long training lasts and how the unlabelled terms come in."""

from __future__ import annotations

import math

__all__ = ["iteration_budget", "sigmoid_ramp_up"]


def iteration_budget(max_epochs: int, iterations_per_epoch: int, max_iterations: int | None = None) -> int:
    """Iterations a run really takes: ``max_iterations``, unless ``max_epochs`` was set to something else.

    ``max_epochs`` normally is ``ceil(max_iterations / iterations_per_epoch)``, and the last epoch may be short. Whoever
    overrides ``max_epochs`` (MONAI Label always does) gets that many whole epochs.

    Args:
        max_epochs: epochs of the trainer.
        iterations_per_epoch: iterations of a whole epoch.
        max_iterations: the budget asked for, or None.

    Returns:
        number of optimiser steps.

    Raises:
        ValueError: a count below 1.
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
    r"""Weight of the unlabelled terms: :math:`e^{-5 (1 - t)^2}`, t going from 0 to 1 over a share of the training.

    Laine and Aila, Temporal Ensembling, 2017 (https://arxiv.org/abs/1610.02242), as UA-MT uses it.

    Args:
        progress: share of all iterations done, in [0, 1].
        share: share of the training that the ramp takes, in [0, 1]; 0 is no ramp.

    Returns:
        factor in (0, 1].
    """
    if share <= 0 or progress >= share:
        return 1.0
    return math.exp(-5.0 * (1.0 - progress / share) ** 2)
