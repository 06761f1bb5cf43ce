"""The alignment loss over a training, from its TensorBoard files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

__all__ = ["LossCourse", "LossPart", "loss_course", "read_scalar"]

_SHARE = 0.1
_FEWEST = 2


@dataclass(frozen=True)
class LossPart:
    """A loss over some steps.

    Attributes:
        first_step: the first recorded step, counted from 1.
        last_step: the last recorded step.
        recorded: number of recorded steps.
        mean: mean over these.
        standard_error: of the mean: standard deviation over the square root of their number.
    """

    first_step: int
    last_step: int
    recorded: int
    mean: float
    standard_error: float


@dataclass(frozen=True)
class LossCourse:
    """A loss over the first and over the last tenth of a training.

    Attributes:
        first: over the first tenth.
        last: over the last tenth.
        margin: mean of the first tenth minus that of the last.
        margin_standard_error: root of the sum of the two squared standard errors.
    """

    first: LossPart
    last: LossPart
    margin: float
    margin_standard_error: float


def loss_course(values: Mapping[int, float], iterations: int) -> LossCourse:
    """Compare the first with the last tenth of a training.

    Args:
        values: recorded losses by step, counted from 1.
        iterations: steps of the training; later records, as of an interrupted run, are ignored.

    Raises:
        ValueError: a tenth has fewer than two recorded steps.
    """
    first = _part({step: value for step, value in values.items() if step <= _SHARE * iterations}, "first", iterations)
    begin = iterations - _SHARE * iterations
    last = _part({step: value for step, value in values.items() if begin < step <= iterations}, "last", iterations)
    error = math.hypot(first.standard_error, last.standard_error)
    return LossCourse(first, last, first.mean - last.mean, error)


def read_scalar(folder: Path, tag: str) -> dict[int, float]:
    """A scalar by step, from all event files of a folder; for repeated steps the later file counts.

    Args:
        folder: ``tensorboard/`` of a training's output folder.
        tag: such as "loss_alignment".

    Raises:
        FileNotFoundError: the folder has no event file.
        ValueError: no file has the scalar.
    """
    files = sorted(folder.glob("events.out.tfevents.*"))
    if not files:
        raise FileNotFoundError(
            f"{folder}: expected TensorBoard's event files in it, found none. Name a training's output folder."
        )
    values: dict[int, float] = {}
    for file in files:
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        if tag in events.Tags()["scalars"]:
            values.update({event.step: event.value for event in events.Scalars(tag)})
    if not values:
        raise ValueError(f"{folder}: expected the scalar {tag}, found none; a training of 10 steps or more records it.")
    return values


def _part(values: Mapping[int, float], which: str, iterations: int) -> LossPart:
    if len(values) < _FEWEST:
        raise ValueError(
            f"the {which} tenth of {iterations} steps holds {len(values)} recorded losses, at least {_FEWEST} are "
            "needed. Every tenth step is recorded: train 200 steps or more."
        )
    error = stdev(values.values()) / math.sqrt(len(values))
    return LossPart(min(values), max(values), len(values), fmean(values.values()), error)
