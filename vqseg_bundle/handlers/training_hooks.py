"""Hooks around a training's steps: a progress bar, a fresh teacher at the start, an evaluation at the end."""

from __future__ import annotations

import sys
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import nn
from tqdm import tqdm

__all__ = ["RestartTeacher", "RunWhenCompleted", "TrainingProgress"]


class TrainingProgress:
    """A progress bar over the iterations of all epochs, with the current loss.

    Ignite's own bar restarts in each epoch and thus never shows when the training ends. Silent if standard error is not
    a terminal.

    Args:
        total_iterations: length of the training.
    """

    def __init__(self, total_iterations: int) -> None:
        self.total_iterations = total_iterations
        self._bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer whose ``state.output`` has a "loss"."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._abandon)

    def _open(self, engine: Engine) -> None:
        self._bar = tqdm(
            total=self.total_iterations,
            initial=engine.state.iteration,
            desc="training",
            unit="it",
            disable=not sys.stderr.isatty(),
        )

    def _advance(self, engine: Engine) -> None:
        if self._bar is not None and not self._bar.disable:
            output: Any = engine.state.output
            self._bar.set_postfix(loss=f"{output['loss'].item():.3f}", refresh=False)
            self._bar.update()

    def _close(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()

    def _abandon(self, engine: Engine, error: Exception) -> None:
        self._close(engine)
        raise error


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
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    def attach(self, engine: Engine) -> None:
        """Attach to ``engine``."""
        engine.add_event_handler(Events.COMPLETED, self._run)

    def _run(self, engine: Engine) -> None:
        self.evaluator.run(global_epoch=engine.state.epoch)
