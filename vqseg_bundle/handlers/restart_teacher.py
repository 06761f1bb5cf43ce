"""Starts the EMA teacher anew from the student whenever a training is started."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from torch import nn

__all__ = ["RestartTeacher"]


class RestartTeacher:
    """Ignite handler for federated rounds, each of which loads the server's weights into the student.

    Without it the pseudo-labels would go on coming from an average of what this client alone had learnt.

    Args:
        teacher: the average (``vqseg_bundle.engines.EMATeacher``).
        student: what it follows.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        self.teacher: Any = teacher
        self.student = student

    def attach(self, engine: Engine) -> None:
        """Work at the start of each run of ``engine``."""
        engine.add_event_handler(Events.STARTED, self._restart)

    def _restart(self, engine: Engine) -> None:
        self.teacher.n_averaged.zero_()
        self.teacher.update_parameters(self.student)
