"""One file to resume an interrupted training from, apart from the weights that get deployed."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver

__all__ = ["ResumeCheckpoint"]

logger = logging.getLogger(__name__)


class _RandomState:
    """The global generators' states as something that can be saved."""

    def state_dict(self) -> dict[str, Any]:
        name, keys, *rest = cast(tuple, np.random.get_state())
        numpy_state = [name, torch.from_numpy(keys.astype(np.int64)), *rest]
        return {"torch": torch.get_rng_state(), "numpy": numpy_state, "python": random.getstate()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        torch.set_rng_state(state["torch"])
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))


class _ReplacingSaver(DiskSaver):
    """Writes the new file over the old one in one step; ignite would delete the old one first."""

    def remove(self, filename: str) -> None:
        pass


class ResumeCheckpoint:
    """Save everything a training needs to go on, and load it when asked to.

    Written atomically after every epoch: the given objects, the engine's place and the random generators.

    Args:
        path: the file, such as ``OUT/resume.pt``.
        objects: what to save, by name; each with ``state_dict`` and ``load_state_dict``.
        resume: load the file when the training starts.

    Raises:
        ValueError: ``resume`` is set and there is no such file.
    """

    def __init__(self, path: str | Path, objects: Mapping[str, Any], resume: bool = False) -> None:
        self.path = Path(path)
        self.objects = {**objects, "random": _RandomState()}
        self.resume = resume
        if resume and not self.path.is_file():
            raise ValueError(
                f"resume: there is no checkpoint {self.path}. Give the output_dir of the run to go on with, "
                "or leave resume out to start anew."
            )

    def attach(self, engine: Engine) -> None:
        """Save after each epoch of ``engine``; load before its first."""
        saver = Checkpoint(
            {**self.objects, "engine": engine},
            _ReplacingSaver(str(self.path.parent), create_dir=True, require_empty=False),
            filename_pattern=self.path.name,
            n_saved=1,
        )
        engine.add_event_handler(Events.EPOCH_COMPLETED, saver)
        if self.resume:
            engine.add_event_handler(Events.STARTED, self._load)

    def _load(self, engine: Engine) -> None:
        checkpoint = torch.load(self.path, map_location="cpu", weights_only=True)
        objects = {**self.objects, "engine": engine}
        if idist.get_rank() > 0:
            # the file holds the first process's random state; the others must not draw the same
            del objects["random"]
        Checkpoint.load_objects(objects, checkpoint)
        logger.info("resumed %s after iteration %d", self.path, engine.state.iteration)
