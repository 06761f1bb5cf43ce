"""Files of weights: written in one step and only if finite, read with a message where they cannot be used."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from ignite.engine import Engine
from ignite.handlers import Checkpoint
from ignite.handlers.checkpoint import BaseSaveHandler
from monai.handlers import CheckpointSaver

from vqseg_bundle.common import NonFiniteError, named_tensors, non_finite_names, process_rank, replacing

__all__ = [
    "BestModelState",
    "CheckpointWriter",
    "ModelSaver",
    "find_resumable",
    "former_checkpoint",
    "read_checkpoint",
    "write_checkpoint",
]
logger = logging.getLogger(__name__)


def write_checkpoint(path: Path, content: Any, keep_former: bool = False) -> None:
    """Write a file that a reader sees whole or not at all, however the process ends.

    Args:
        path: the file; its folder is made if missing.
        content: what to save, see :func:`torch.save`.
        keep_former: keep the file that is replaced, as :func:`former_checkpoint`.

    Raises:
        NonFiniteError: a tensor holds a number that is not finite; what was there before stays.
    """
    names = non_finite_names(named_tensors(content))
    if names:
        raise NonFiniteError(
            f"{path} is not written: {names[0]} holds numbers that are not finite"
            f"{f', and {len(names) - 1} more do' if names[1:] else ''}. What was saved before is kept. Lower "
            "learning_rate and train anew, or look at the data (`vqseg check`)."
        )
    with replacing(path) as partial:
        with partial.open("wb") as file:
            torch.save(content, file)
            # a power failure would else leave an empty file under the new name
            file.flush()
            os.fsync(file.fileno())
        if keep_former and path.is_file():
            _keep_former(path)


def read_checkpoint(path: Path) -> Any:
    """Read a file of weights, on the CPU; no code that it may hold is run.

    Args:
        path: the file.

    Raises:
        ValueError: there is no such file, it is empty, cut off or something else, or holds numbers that are not finite.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: expected weights, found an empty file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected weights, found a file that is cut off or damaged.") from error
    except UnpicklingError as error:
        raise ValueError(f"{path}: expected weights, found a file of another kind.") from error
    names = non_finite_names(named_tensors(content))
    if names:
        raise ValueError(
            f"{path}: expected finite weights, found NaN or infinity in {names[0]}"
            f"{f' and {len(names) - 1} more' if names[1:] else ''}."
        )
    return content


def former_checkpoint(path: Path) -> Path:
    """Where the file before a checkpoint is kept: ``resume.previous.pt`` for ``resume.pt``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _keep_former(path: Path) -> None:
    former = former_checkpoint(path)
    second_name = former.with_name(f".{former.name}")
    second_name.unlink(missing_ok=True)
    try:
        second_name.hardlink_to(path)
    except OSError:
        # a file system without hard links: for a moment there is the former file alone, which is gone on from as well
        path.replace(former)
    else:
        second_name.replace(former)


def find_resumable(path: Path) -> tuple[Path, dict[str, Any], str]:
    """Choose what a training goes on from: its last checkpoint, or the one before where that cannot be used.

    Args:
        path: the last checkpoint.

    Returns:
        The file to go on from, its content, and why it is not ``path`` (empty where it is).

    Raises:
        ValueError: neither can be used.
    """
    former = former_checkpoint(path)
    if not path.is_file() and not former.is_file():
        raise ValueError(
            f"resume: there is no checkpoint {path}. Give the output_dir of the run to go on with, "
            "or leave resume out to start anew."
        )
    try:
        return path, _training_state(path), ""
    except ValueError as error:
        reason = str(error)
    try:
        return former, _training_state(former), reason
    except ValueError as error:
        raise ValueError(
            f"resume: {reason} Nor can the one before be used: {error} Copy {path.name} again if there is a whole "
            "copy, or leave resume out to start anew."
        ) from error


def _training_state(path: Path) -> dict[str, Any]:
    content = read_checkpoint(path)
    if not isinstance(content, Mapping) or "engine" not in content:
        raise ValueError(f"{path}: expected what a training writes to go on from, found something else.")
    return dict(content)


class CheckpointWriter(BaseSaveHandler):
    """What ignite's Checkpoint saves by; it would delete the former file before it writes the new one, or while.

    Only the first of several processes writes.

    Args:
        dirname: the folder.
        filename: the file; None takes ignite's name.
        keep_former: see :func:`write_checkpoint`.
    """

    def __init__(self, dirname: str | Path, filename: str | None = None, keep_former: bool = False) -> None:
        self.dirname = Path(dirname)
        self.filename = filename
        self.keep_former = keep_former

    def __call__(self, checkpoint: Mapping, filename: str, metadata: Mapping | None = None) -> None:
        """Write the file.

        Raises:
            NonFiniteError: see :func:`write_checkpoint`.
        """
        if process_rank() == 0:
            write_checkpoint(self.dirname / (self.filename or filename), checkpoint, self.keep_former)

    def remove(self, filename: str) -> None:
        """Leave a file that is replaced anyway, and delete one of another name."""
        if self.filename is None and process_rank() == 0:
            (self.dirname / filename).unlink(missing_ok=True)


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


class BestModelState:
    """The state of the saver of the best model, as something that the resume checkpoint can hold.

    Without it the first validation after resuming would replace better weights.

    Args:
        handlers: an evaluator's handlers, with at most one CheckpointSaver that saves by key metric; None entries
            (disabled ones) are passed over.
    """

    def __init__(self, handlers: Sequence[Any]) -> None:
        # MONAI can put this state into the weights' file only, which must stay a plain state dict
        savers = [handler for handler in handlers if isinstance(handler, CheckpointSaver)]
        self._checkpoints = [saver._key_metric_checkpoint for saver in savers if saver._key_metric_checkpoint]

    def state_dict(self) -> dict[str, Any]:
        """The saver's list of saved files with their scores; empty without such a saver."""
        return {str(index): checkpoint.state_dict() for index, checkpoint in enumerate(self._checkpoints)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned, unless the weights that it tells of can no longer be read."""
        for index, checkpoint in enumerate(self._checkpoints):
            reason = _why_unusable(checkpoint)
            if reason:
                logger.warning("%s Its score is forgotten: the next validation writes it anew.", reason)
            else:
                checkpoint.load_state_dict(state[str(index)])


def _why_unusable(checkpoint: Checkpoint) -> str:
    writer = checkpoint.save_handler
    if not isinstance(writer, CheckpointWriter) or writer.filename is None:
        return ""
    try:
        read_checkpoint(writer.dirname / writer.filename)
    except ValueError as error:
        return str(error)
    return ""
