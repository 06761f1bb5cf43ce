"""Files of weights: written atomically and only if finite, read with a message if they cannot be used."""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import torch
from ignite.engine import Engine
from ignite.handlers import Checkpoint
from ignite.handlers.checkpoint import BaseSaveHandler
from monai.handlers import CheckpointSaver

from vqseg_bundle.common import (
    NonFiniteError,
    named_tensors,
    non_finite_names,
    permission_text,
    process_rank,
    replacing,
    write_json,
)

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

Sections = Callable[[], Mapping[str, Any]]


def write_checkpoint(path: Path, content: Any, keep_former: bool = False) -> None:
    """Write a file atomically, so that a reader sees all of it or nothing, however the process ends.

    ``keep_former`` keeps the replaced file, as :func:`former_checkpoint`. NonFiniteError: a tensor is not finite; the
    existing file is kept.
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
        if keep_former and path.is_file():
            _keep_former(path)


def read_checkpoint(path: Path) -> Any:
    """Read a file of weights, on the CPU, without running any code in it.

    ValueError: the file is missing, unreadable, empty, truncated or not of weights, or has non-finite numbers.
    """
    try:
        content = _load(path)
    except PermissionError as error:
        raise ValueError(permission_text(error)) from error
    names = non_finite_names(named_tensors(content))
    if names:
        raise ValueError(
            f"{path}: expected finite weights, found NaN or infinity in {names[0]}"
            f"{f' and {len(names) - 1} more' if names[1:] else ''}."
        )
    return content


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: expected weights, found an empty file.")
    try:
        if zipfile.is_zipfile(path):
            _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except (RuntimeError, EOFError, OSError, LookupError, AttributeError, TypeError, ValueError, BadZipFile) as error:
        raise ValueError(f"{path}: expected weights, found a file that is cut off or damaged.") from error
    except UnpicklingError as error:
        raise ValueError(f"{path}: expected weights, found a file of another kind.") from error


def _check_sums(path: Path) -> None:
    """Compare every part of a file of weights with its checksum, which ``torch.save`` writes and ``load`` ignores."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise BadZipFile(f"bad checksum of {damaged}")


def former_checkpoint(path: Path) -> Path:
    """Path of the previous checkpoint: ``resume.previous.pt`` for ``resume.pt``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _keep_former(path: Path) -> None:
    former = former_checkpoint(path)
    second_name = former.with_name(f".{former.name}.{os.getpid()}")
    second_name.unlink(missing_ok=True)
    try:
        second_name.hardlink_to(path)
    except OSError:
        # a file system without hard links: for a moment there is only the former file, from which a training can also
        # resume
        path.replace(former)
    else:
        second_name.replace(former)


def find_resumable(path: Path) -> tuple[Path, dict[str, Any], str]:
    """Choose the checkpoint from which to resume: the last one, or the previous one if that cannot be used.

    Returns:
        The file, its content, and why it is not ``path`` (empty if it is).

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
    """Save handler for ignite's Checkpoint: only the first process writes; the former file is replaced atomically.

    ``filename`` None uses ignite's name; ``keep_former``: see :func:`write_checkpoint`; ``record`` and ``sections``:
    see :class:`ModelSaver`.
    """

    def __init__(
        self,
        dirname: str | Path,
        filename: str | None = None,
        keep_former: bool = False,
        record: Mapping[str, Any] | None = None,
        sections: Sections | Sequence[Sections] = (),
    ) -> None:
        self.dirname = Path(dirname)
        self.filename = filename
        self.keep_former = keep_former
        self.record = record
        self.sections = [sections] if callable(sections) else list(sections or ())

    def __call__(self, checkpoint: Mapping, filename: str, metadata: Mapping | None = None) -> None:
        """Write the file, see :func:`write_checkpoint`."""
        if process_rank() == 0:
            path = self.dirname / (self.filename or filename)
            write_checkpoint(path, checkpoint, self.keep_former)
            self._write_record(path.with_suffix(".json"))

    def _write_record(self, path: Path) -> None:
        record = self.record
        if not record and self.sections and path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
        if record:
            write_json(path, {**record, **{name: part for each in self.sections for name, part in each().items()}})

    def remove(self, filename: str) -> None:
        """Keep a file that will be replaced, and delete one with another name."""
        if self.filename is None and process_rank() == 0:
            (self.dirname / filename).unlink(missing_ok=True)


class ModelSaver(CheckpointSaver):
    """Save weights like MONAI's CheckpointSaver, but replace files atomically and only with finite weights.

    MONAI's deletes the former file first and writes the new one in place: a process that ends meanwhile leaves no file,
    or part of one. It also saves the weights of failed trainings.

    Args:
        save_dir: the folder.
        save_dict: the objects to save.
        record: what is needed to use the weights, written as JSON beside them with each save; None or empty keeps the
            existing file.
        sections: called at each save, for sections of that JSON that the training itself finds; one or several.
        options: further arguments of :class:`monai.handlers.CheckpointSaver`.
    """

    def __init__(
        self,
        save_dir: str,
        save_dict: dict[str, Any],
        record: Mapping[str, Any] | None = None,
        sections: Sections | Sequence[Sections] = (),
        **options: Any,
    ) -> None:
        super().__init__(save_dir, save_dict, **options)
        checkpoints: list[Any] = [self._final_checkpoint, self._key_metric_checkpoint, self._interval_checkpoint]
        for checkpoint in checkpoints:
            if checkpoint is not None:
                name = getattr(checkpoint.save_handler, "filename", None)
                checkpoint.save_handler = CheckpointWriter(save_dir, name, record=record, sections=sections)

    def exception_raised(self, engine: Engine, e: Exception) -> None:
        """Save nothing."""
        raise e


#: of the state of MONAI's evaluators
_BEST = ("best_metric", "best_metric_epoch")


class BestModelState:
    """The state of the best model's saver and of its evaluator's best score, for the resume checkpoint.

    Without the former the first validation after resuming would replace better weights, without the latter a score that
    is not theirs would be reported.

    Args:
        handlers: an evaluator's handlers, with at most one CheckpointSaver that saves by key metric; None entries
            (disabled handlers) are skipped.
        validator: MONAI's evaluator, or None.
    """

    def __init__(self, handlers: Sequence[Any], validator: Engine | None = None) -> None:
        self._validator = validator
        # MONAI can put this state only into the weights' file, which must remain a plain state dict
        savers = [handler for handler in handlers if isinstance(handler, CheckpointSaver)]
        self._checkpoints = [saver._key_metric_checkpoint for saver in savers if saver._key_metric_checkpoint]

    def state_dict(self) -> dict[str, Any]:
        """The saver's list of saved files with their scores, empty without such a saver; and the best score."""
        states: dict[str, Any] = {str(index): each.state_dict() for index, each in enumerate(self._checkpoints)}
        if self._validator is not None:
            states["best"] = {name: getattr(self._validator.state, name) for name in _BEST}
        return states

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from :meth:`state_dict`, unless its weights can no longer be read."""
        for index, checkpoint in enumerate(self._checkpoints):
            reason = _why_unusable(checkpoint)
            if reason:
                logger.warning("%s Its score is forgotten: the next validation writes it anew.", reason)
                return
            checkpoint.load_state_dict(state[str(index)])
        if self._validator is not None:
            for name, value in state.get("best", {}).items():
                setattr(self._validator.state, name, value)


def _why_unusable(checkpoint: Checkpoint) -> str:
    writer = checkpoint.save_handler
    if not isinstance(writer, CheckpointWriter) or writer.filename is None:
        return ""
    try:
        read_checkpoint(writer.dirname / writer.filename)
    except ValueError as error:
        return str(error)
    return ""
