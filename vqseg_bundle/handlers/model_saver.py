"""MONAI's CheckpointSaver, with files that are whole and finite at every moment."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine
from monai.handlers import CheckpointSaver

from vqseg_bundle.handlers.checkpoint_file import CheckpointWriter

__all__ = ["ModelSaver"]


class ModelSaver(CheckpointSaver):
    """Save weights as MONAI's CheckpointSaver does, but replace a file in one step, and only by finite weights.

    MONAI's deletes the former file first and writes the new one in place: a process that ends meanwhile leaves none, or
    half of one. It also saves the weights of a training that fails, which nobody has asked for.

    Args:
        save_dir: the folder.
        save_dict: what to save.
        options: the other arguments of :class:`monai.handlers.CheckpointSaver`.
    """

    def __init__(self, save_dir: str, save_dict: dict[str, Any], **options: Any) -> None:
        super().__init__(save_dir, save_dict, **options)
        checkpoints: list[Any] = [self._final_checkpoint, self._key_metric_checkpoint, self._interval_checkpoint]
        for checkpoint in checkpoints:
            if checkpoint is not None:
                name = getattr(checkpoint.save_handler, "filename", None)
                checkpoint.save_handler = CheckpointWriter(save_dir, name)

    def exception_raised(self, engine: Engine, e: Exception) -> None:
        """Save nothing."""
        raise e
