"""The file from which an interrupted training resumes, separate from the deployed weights."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint

from vqseg_bundle.handlers.checkpoints import CheckpointWriter, find_resumable

__all__ = ["ResumeCheckpoint", "ResumedSchedule", "ends_epoch"]

logger = logging.getLogger(__name__)


def ends_epoch(engine: Engine) -> bool:
    """Whether the current step is the last of its epoch, or of the training.

    Before such an epoch's validation nothing is saved: a training resumed from there would go without it.
    """
    length, total = engine.state.epoch_length, getattr(engine, "total_iterations", None)
    return bool(length and engine.state.iteration % length == 0) or engine.state.iteration == total


class ResumedSchedule:
    """A learning-rate schedule in the resume checkpoint, which may go on with another length or initial rate.

    Args:
        scheduler: PyTorch's, of which a changed one needs a closed form (``PolynomialLR``, ``CosineAnnealingLR``, ...).
        changed: on loading, keep this schedule's own length and rates, and its optimiser's own options such as
            ``weight_decay``, and only go to the saved step.
    """

    def __init__(self, scheduler: Any, changed: bool = False) -> None:
        self.scheduler = scheduler
        self.changed = changed
        rates = ("params", "lr", "initial_lr")
        self._options = [
            {key: value for key, value in group.items() if key not in rates}
            for group in scheduler.optimizer.param_groups
        ]

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved step; call it after the optimiser's."""
        if not self.changed:
            self.scheduler.load_state_dict(state)
            return
        self.scheduler.last_epoch = state["last_epoch"]
        rates = self.scheduler._get_closed_form_lr()
        groups = self.scheduler.optimizer.param_groups
        for group, options, base, rate in zip(groups, self._options, self.scheduler.base_lrs, rates, strict=True):
            # the optimiser's own loading has brought back the options of before
            group.update(options, initial_lr=base, lr=rate)
        self.scheduler._last_lr = rates


class ResumeCheckpoint:
    """Save everything that a training needs to resume, and load it on request.

    Written atomically after every epoch, and in a long one every ``minutes``: the given objects and the engine's state.
    There is no random state, since each step's randomness follows from the seed and the step's number. The file before
    is kept beside it (``resume.previous.pt``), and used if the last one cannot be. With several processes, the first
    one writes; attach it on every process.

    Args:
        path: the file, such as ``OUT/resume.pt``.
        objects: the objects to save, by name, each with ``state_dict`` and ``load_state_dict``.
        resume: load the file when the training starts.
        minutes: longest time between two saves; None saves after epochs only.
        another_length: go on with the engine's own number of epochs and ``total_iterations``, not with the saved ones.

    Raises:
        ValueError: ``resume`` is set, but the file is missing or cannot be used; or ``minutes`` is not positive.
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        resume: bool = False,
        minutes: float | None = None,
        another_length: bool = False,
    ) -> None:
        if minutes is not None and not minutes > 0:
            raise ValueError(f"checkpoint_minutes must be positive or None, got {minutes!r}.")
        self.path = Path(path)
        self.objects = dict(objects)
        self.resume = resume
        self.minutes = minutes
        self.another_length = another_length
        self._saved_at = 0.0
        self._writer = CheckpointWriter(self.path.parent, self.path.name)
        if resume:
            find_resumable(self.path)

    def attach(self, engine: Engine) -> None:
        """Save after each epoch of ``engine``; load before its first."""
        engine.add_event_handler(Events.STARTED, self._start_clock)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save_when_due)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        if self.resume:
            engine.add_event_handler(Events.STARTED, self._load)

    def _all_objects(self, engine: Engine) -> dict[str, Any]:
        return {**self.objects, "engine": engine}

    def save(self, engine: Engine) -> None:
        """Write the file."""
        states = {name: item.state_dict() for name, item in self._all_objects(engine).items()}
        self._writer(states, self.path.name)
        # an existing file may be of another training, or damaged; one saved by this training is neither
        self._writer.keep_former = True
        self._start_clock(engine)

    def _start_clock(self, engine: Engine) -> None:
        self._saved_at = time.monotonic()

    def _save_when_due(self, engine: Engine) -> None:
        due = self.minutes is not None and time.monotonic() - self._saved_at >= 60 * self.minutes
        if due and not ends_epoch(engine):
            self.save(engine)

    def _load(self, engine: Engine) -> None:
        found, checkpoint, reason = find_resumable(self.path)
        if reason:
            logger.warning("%s Going on from the file before, %s.", reason, found)
        self._writer.keep_former = not reason
        if self.another_length:
            total = getattr(engine, "total_iterations", None)
            own = {"max_epochs": engine.state.max_epochs, "total_iterations": total}
            checkpoint = {**checkpoint, "engine": {**checkpoint["engine"], **own}}
        Checkpoint.load_objects(self._all_objects(engine), checkpoint)
        logger.info("resumed %s after iteration %d", found, engine.state.iteration)
