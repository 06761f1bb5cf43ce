"""A few steps of a training before it begins, to learn what a step takes; nothing of them is kept."""

from __future__ import annotations

import logging
import random
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from vqseg_bundle import data
from vqseg_bundle.planning import Pace

__all__ = ["measure_pace", "random_states_kept"]

logger = logging.getLogger(__name__)

_WARM_UP, _TIMED = 3, 7
_CASES = 4  # of each list: the pace does not depend on their number
_ENGINES = ("SemiSupervisedTrainer", "SupervisedEvaluator")


def measure_pace(config: Mapping[str, Any], cohort: data.Cohort) -> Pace:
    """Time ten steps of a training, the first three uncounted, and a validation, on a few of its cases.

    The training is built a second time, without handlers; random states are as before when this returns. The foundation
    model computes the features of each view, even if the training will keep them.

    Args:
        config: the whole configuration, with values in place of the references to a plan.
        cohort: the opened cohort.
    """
    few: dict[str, Any] = {name: cases[:_CASES] for name, cases in cohort.splits().items()}
    trial = ConfigParser({**config, "cohort": replace(cohort, **few)})
    trial.update(
        {
            "max_iterations": _WARM_UP + _TIMED,
            "train_handlers": {},
            "train#handlers": [],
            "validation_handlers": {},
            "validate#handlers": [],
            "foundation_features": "exact",
            "cache_rate": 1.0,
            "cache_on_disk": False,
            "num_workers": 0,
        }
    )
    part = trial.get_parsed_content
    with random_states_kept(), _engines_silent():
        scan = _time_reading(part("train#dataset"))
        step = _time_steps(part("train#trainer"), part("device"))
        case = 0.0
        if few["validation"]:
            evaluator = part("validate#evaluator")
            evaluator.run()  # reads the cases
            begun = time.perf_counter()
            evaluator.run()
            _finish(part("device"))
            case = (time.perf_counter() - begun) / len(few["validation"])
    validation = len(cohort.validation)
    interval = part("iterations_per_epoch") * part("val_interval")
    counted = min(part("final_codebook_cases"), len(cohort.training) + len(cohort.unlabeled))
    return Pace(step + validation * case / interval, scan, validation * (scan + case) + counted * (scan + case))


def _time_steps(trainer: Engine, device: str) -> float:
    """Median seconds of the counted steps."""
    ends: list[float] = []

    def note() -> None:
        _finish(device)
        ends.append(time.perf_counter())

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    trainer.run()
    return statistics.median(after - before for before, after in pairwise(ends[_WARM_UP - 1 :]))


def _time_reading(cases: data.KeptCases) -> float:
    """Median seconds of a case that has not been read, the first one uncounted if there are others."""
    taken = []
    for index in range(len(cases)):
        begun = time.perf_counter()
        cases[index]
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:] or taken)


def _finish(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Leave the random states of Python, NumPy and torch as they were."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(before[0])
    np.random.set_state(before[1])


@contextmanager
def _engines_silent() -> Iterator[None]:
    loggers = [logging.getLogger(f"ignite.engine.engine.{name}") for name in _ENGINES]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
