"""Ways in which one of several processes fails, for overlays: ``tests.support.process_failures.Fail``."""

from __future__ import annotations

import os
import signal
import time

from ignite.engine import Engine, Events

__all__ = ["Fail"]


class Fail:
    """Handler that makes one rank fail at the start of an iteration: "killed", "error" or "hangs"."""

    def __init__(self, how: str, rank: int = 1, iteration: int = 3) -> None:
        self.how = how
        self.rank = rank
        self.iteration = iteration

    def attach(self, engine: Engine) -> None:
        if int(os.environ["RANK"]) == self.rank:
            engine.add_event_handler(Events.ITERATION_STARTED(once=self.iteration), self._fail)

    def _fail(self) -> None:
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "hangs":
            time.sleep(1000)
        raise ArithmeticError("the test's error")
