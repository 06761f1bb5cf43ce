"""How a run ends early: stopped by a signal after a step that is saved, or by an error that needs no traceback."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events

from vqseg_bundle.common import NonFiniteError, is_disk_full, is_memory_full, process_count, process_rank
from vqseg_bundle.handlers.resume_checkpoint import ResumeCheckpoint, ends_epoch

__all__ = ["PlainErrors", "StopOnSignal"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2
_NOTICE = b"\nstopping after this step, or the validation that follows it, which is saved; again: at once\n"


class StopOnSignal:
    """Save and stop after the step in which SIGINT (Ctrl-C) or SIGTERM (Slurm, Docker) arrives.

    The engine terminates without its final events, with the signal's number in ``engine.state.stop_signal``. A signal
    in the last step of an epoch or in its validation takes effect when that epoch is saved, so that a resumed training
    equals an uninterrupted one. The first process says on standard error, at once, what it will do. A second signal
    ends the process at once, as without this handler. Several processes stop together. Attach it after all handlers
    that change what is saved.

    Args:
        checkpoint: saves the state.
    """

    def __init__(self, checkpoint: ResumeCheckpoint) -> None:
        self.checkpoint = checkpoint
        self._received = 0
        self._former: dict[int, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.STARTED, self._listen)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)
        for event in (Events.COMPLETED, Events.TERMINATE):
            engine.add_event_handler(event, self._restore)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._abandon)

    def _listen(self, engine: Engine) -> None:
        self._received = 0
        try:
            self._former = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        except ValueError:
            # not in the main thread, where a server runs trainings and signals never arrive
            self._former = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        self._restore()
        if process_rank() == 0:
            # not by a logger or print, whose buffer or lock the interrupted code may be holding
            with suppress(OSError):
                os.write(_STDERR, _NOTICE)

    def _after_step(self, engine: Engine) -> None:
        if ends_epoch(engine):
            return
        number = self._agreed(engine)
        if number:
            self.checkpoint.save(engine)
            self._stop(engine, number)

    def _after_epoch(self, engine: Engine) -> None:
        number = self._agreed(engine)
        if number:
            self._stop(engine, number)

    def _agreed(self, engine: Engine) -> int:
        """The signal that any process has received, 0 for none."""
        if process_count() == 1:
            return self._received
        number = torch.tensor(self._received, device=getattr(engine.state, "device", "cpu"))
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number)

    def _stop(self, engine: Engine, number: int) -> None:
        state: Any = engine.state
        state.stop_signal = number
        engine.terminate(skip_completed=True)

    def _restore(self, engine: Engine | None = None) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former = {}

    def _abandon(self, engine: Engine, error: BaseException) -> None:
        self._restore()
        raise error


class PlainErrors:
    """Let errors that a message explains pass without the traceback that MONAI's StatsHandler logs.

    These are numbers that are not finite, a full disk or memory, and the end of the process. Attach it before other
    handlers.
    """

    def attach(self, engine: Engine) -> None:
        """Attach to any engine."""
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._pass)

    def _pass(self, engine: Engine, error: BaseException) -> None:
        if (
            isinstance(error, NonFiniteError | KeyboardInterrupt | SystemExit)
            or is_disk_full(error)
            or is_memory_full(error)
        ):
            raise error
