"""One progress bar over a whole training, with the time left."""

from __future__ import annotations

import sys
from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

__all__ = ["TrainingProgress"]


class TrainingProgress:
    """A bar that counts iterations over all epochs and shows the running loss.

    Ignite's own bar starts anew each epoch and so never tells when the training ends. Silent where standard error is
    not a terminal.

    Args:
        total_iterations: length of the training.
    """

    def __init__(self, total_iterations: int) -> None:
        self.total_iterations = total_iterations
        self._bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Follow a trainer whose ``state.output`` holds a "loss"."""
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
