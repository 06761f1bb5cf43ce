"""One file to resume an interrupted training from, apart from the weights that get deployed."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver

from vqseg_bundle.common import gather_objects, process_rank

__all__ = ["ResumeCheckpoint"]

logger = logging.getLogger(__name__)


class _RandomStates:
    """The states of the global generators and of the engine's own, of every process, as something that can be saved.

    A process that the file knows nothing of, as more of them go on than were interrupted, keeps the state it has.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def _generator(self) -> torch.Generator | None:
        # looked up late: handlers are attached while the engine is still being built
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
        # a file of version 0.3 or before holds the first process's state alone
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


class _ReplacingSaver(DiskSaver):
    """Writes the new file over the old one in one step; ignite would delete the old one first."""

    def remove(self, filename: str) -> None:
        pass


class ResumeCheckpoint:
    """Save everything a training needs to go on, and load it when asked to.

    Written atomically after every epoch: the given objects, the engine's place, and the random generators: the global
    ones and ``engine.generator``, where the engine has one. Of several processes, the first one writes for all, with
    the random states of each: attach it on every process.

    Args:
        path: the file, such as ``OUT/resume.pt``.
        objects: what to save, by name; each with ``state_dict`` and ``load_state_dict``.
        resume: load the file when the training starts.

    Raises:
        ValueError: ``resume`` is set and there is no such file.
    """

    def __init__(self, path: str | Path, objects: Mapping[str, Any], resume: bool = False) -> None:
        self.path = Path(path)
        self.objects = dict(objects)
        self.resume = resume
        if resume and not self.path.is_file():
            raise ValueError(
                f"resume: there is no checkpoint {self.path}. Give the output_dir of the run to go on with, "
                "or leave resume out to start anew."
            )

    def attach(self, engine: Engine) -> None:
        """Save after each epoch of ``engine``; load before its first."""
        saver = Checkpoint(
            self._all_objects(engine),
            _ReplacingSaver(str(self.path.parent), create_dir=True, require_empty=False),
            filename_pattern=self.path.name,
            n_saved=1,
        )
        engine.add_event_handler(Events.EPOCH_COMPLETED, saver)
        if self.resume:
            engine.add_event_handler(Events.STARTED, self._load)

    def _all_objects(self, engine: Engine) -> dict[str, Any]:
        return {**self.objects, "random": _RandomStates(engine), "engine": engine}

    def _load(self, engine: Engine) -> None:
        checkpoint = torch.load(self.path, map_location="cpu", weights_only=True)
        Checkpoint.load_objects(self._all_objects(engine), checkpoint)
        logger.info("resumed %s after iteration %d", self.path, engine.state.iteration)
