"""Hooks around a training's steps: a progress bar, an estimate of the time, a fresh teacher, a last evaluation."""

from __future__ import annotations

import logging
import math
import statistics
import sys
import time
from itertools import pairwise
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import nn
from tqdm import tqdm

from vqseg_bundle.common import process_rank

__all__ = ["RestartTeacher", "RunWhenCompleted", "TrainingEstimate", "TrainingProgress"]

logger = logging.getLogger(__name__)


class TrainingProgress:
    """A progress bar over the iterations of all epochs, with the current loss; in a pipe or log, a line now and then.

    Ignite's own bar restarts in each epoch and thus never shows when the training ends. The time left is estimated
    from all that was done since the start, validations included.

    Args:
        total_iterations: length of the training.
        interval: seconds between two lines where standard error is not a terminal; the first comes after a sixth of it.
    """

    def __init__(self, total_iterations: int, interval: float = 60.0) -> None:
        self.total_iterations = total_iterations
        self.interval = interval
        self._bar: tqdm | None = None
        self._begun = 0.0
        self._first = 0
        self._due = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer whose ``state.output`` has a "loss"."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._abandon)

    def _open(self, engine: Engine) -> None:
        self._begun, self._first = time.monotonic(), engine.state.iteration
        self._due = self._begun + self.interval / 6
        self._bar = tqdm(
            total=self.total_iterations,
            initial=engine.state.iteration,
            desc="training",
            unit="it",
            disable=not sys.stderr.isatty(),
        )

    def _advance(self, engine: Engine) -> None:
        output: Any = engine.state.output
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix(loss=f"{output['loss'].item():.3f}", refresh=False)
            self._bar.update()
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + self.interval
            self._log(engine.state.iteration, output["loss"].item())

    def _log(self, iteration: int, loss: float) -> None:
        gone = time.monotonic() - self._begun
        left = gone / (iteration - self._first) * (self.total_iterations - iteration)
        share, times = iteration / self.total_iterations, [tqdm.format_interval(seconds) for seconds in (gone, left)]
        text = "step %d of %d (%.0f %%), loss %.3f, %s gone, about %s left"
        logger.info(text, iteration, self.total_iterations, 100 * share, loss, *times)

    def _close(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()

    def _abandon(self, engine: Engine, error: Exception) -> None:
        self._close(engine)
        raise error


class TrainingEstimate:
    """Log once, after the first steps, how long the others will take and how much memory was needed.

    The time is the median of the counted steps, without validations, which :class:`TrainingProgress` takes in.

    Args:
        total_iterations: length of the training.
        warm_up: first steps, which are not counted.
        counted: steps after these that are.
    """

    def __init__(self, total_iterations: int, warm_up: int = 3, counted: int = 10) -> None:
        self.total_iterations = total_iterations
        self.warm_up = warm_up
        self.counted = counted
        self._ends: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)

    def _note(self, engine: Engine) -> None:
        if len(self._ends) > self.warm_up + self.counted:
            return
        self._ends.append(time.monotonic())
        left = self.total_iterations - engine.state.iteration
        if len(self._ends) == self.warm_up + self.counted and left:
            step = statistics.median(after - before for before, after in pairwise(self._ends[self.warm_up - 1 :]))
            minutes, memory = tqdm.format_interval(step * left), _peak_memory_gb()
            text = "a step takes %.2g s: about %s for the %d left, beside validations; most memory so far %.2f GB"
            logger.info(text, step, minutes, left, memory)


def _peak_memory_gb() -> float:
    """Of the GPU if it has been used, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource  # not on Windows
    except ImportError:
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


class RestartTeacher:
    """Restart the teacher in each federated round, from the server's weights in the student.

    Without this, the pseudo-labels would still come from an average of only this client's weights.

    Args:
        teacher: the average (``vqseg_bundle.engines.EMATeacher``).
        student: the averaged network.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        self.teacher: Any = teacher
        self.student = student

    def attach(self, engine: Engine) -> None:
        """Attach to ``engine``."""
        engine.add_event_handler(Events.STARTED, self._restart)

    def _restart(self, engine: Engine) -> None:
        self.teacher.n_averaged.zero_()
        self.teacher.update_parameters(self.student)


class RunWhenCompleted:
    """Run an evaluator when a trainer has finished, as MONAI's ValidationHandler does during training.

    Args:
        evaluator: the evaluator.
        announcement: text for the log before it runs, so that nobody waits without knowing for what; None for none.
    """

    def __init__(self, evaluator: Evaluator, announcement: str | None = None) -> None:
        self.evaluator = evaluator
        self.announcement = announcement

    def attach(self, engine: Engine) -> None:
        """Attach to ``engine``."""
        engine.add_event_handler(Events.COMPLETED, self._run)

    def _run(self, engine: Engine) -> None:
        if self.announcement and process_rank() == 0:
            logger.info(self.announcement)
        self.evaluator.run(global_epoch=engine.state.epoch)
