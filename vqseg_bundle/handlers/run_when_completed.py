"""Runs an evaluator once, after the last step of a training."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines import Evaluator

__all__ = ["RunWhenCompleted"]


class RunWhenCompleted:
    """Run an evaluator when a trainer has completed, as MONAI's ValidationHandler does during training.

    Args:
        evaluator: what to run.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    def attach(self, engine: Engine) -> None:
        """Wait for the end of ``engine``."""
        engine.add_event_handler(Events.COMPLETED, self._run)

    def _run(self, engine: Engine) -> None:
        self.evaluator.run(global_epoch=engine.state.epoch)
