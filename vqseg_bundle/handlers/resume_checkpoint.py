"""The file from which an interrupted training resumes, separate from the deployed weights."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint

from vqseg_bundle.common import gather_objects, process_rank
from vqseg_bundle.handlers.checkpoints import CheckpointWriter, find_resumable

__all__ = ["ResumeCheckpoint"]

logger = logging.getLogger(__name__)


class _RandomStates:
    """The states of all random generators of every process, for saving; a process unknown to the file keeps its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def _generator(self) -> torch.Generator | None:
        # looked up late: handlers are attached while the engine is under construction
        return getattr(self._engine, "generator", None)

    def state_dict(self) -> dict[str, Any]:
        name, keys, *rest = cast(tuple, np.random.get_state())
        numpy_state = [name, torch.from_numpy(keys.astype(np.int64)), *rest]
        own: dict[str, Any] = {"torch": torch.get_rng_state(), "numpy": numpy_state, "python": random.getstate()}
        if self._generator is not None:
            own["generator"] = self._generator.get_state()
        return {"processes": gather_objects(own)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rank = process_rank()
        # a file of version 0.3 or earlier has only the first process's state
        states = state.get("processes", [state])
        if rank >= len(states):
            return
        own = states[rank]
        torch.set_rng_state(own["torch"])
        name, keys, *rest = own["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        version, numbers, gauss = own["python"]
        random.setstate((version, tuple(numbers), gauss))
        if self._generator is not None and "generator" in own:
            self._generator.set_state(own["generator"])


class ResumeCheckpoint:
    """Save everything that a training needs to resume, and load it on request.

    Written atomically after every epoch: the given objects, the engine's state, and the random generators (the global
    ones and ``engine.generator``, if the engine has one). The previous epoch's file is kept beside it
    (``resume.previous.pt``), and used if the last one cannot be. With several processes, the first one writes, with the
    random states of all: attach it on every process.

    Args:
        path: the file, such as ``OUT/resume.pt``.
        objects: the objects to save, by name, each with ``state_dict`` and ``load_state_dict``.
        resume: load the file when the training starts.

    Raises:
        ValueError: ``resume`` is set, but the file is missing or cannot be used.
    """

    def __init__(self, path: str | Path, objects: Mapping[str, Any], resume: bool = False) -> None:
        self.path = Path(path)
        self.objects = dict(objects)
        self.resume = resume
        self._writer = CheckpointWriter(self.path.parent, self.path.name)
        if resume:
            find_resumable(self.path)

    def attach(self, engine: Engine) -> None:
        """Save after each epoch of ``engine``; load before its first."""
        saver = Checkpoint(self._all_objects(engine), self._writer, filename_pattern=self.path.name, n_saved=1)
        engine.add_event_handler(Events.EPOCH_COMPLETED, saver)
        # an existing file may be of another training, or damaged; one saved by this training is neither
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._keep_from_now_on)
        if self.resume:
            engine.add_event_handler(Events.STARTED, self._load)

    def _all_objects(self, engine: Engine) -> dict[str, Any]:
        return {**self.objects, "random": _RandomStates(engine), "engine": engine}

    def _keep_from_now_on(self, engine: Engine) -> None:
        self._writer.keep_former = True

    def _load(self, engine: Engine) -> None:
        found, checkpoint, reason = find_resumable(self.path)
        if reason:
            logger.warning("%s Going on from the file before, %s.", reason, found)
        self._writer.keep_former = not reason
        Checkpoint.load_objects(self._all_objects(engine), checkpoint)
        logger.info("resumed %s after iteration %d", found, engine.state.iteration)
