"""The output folder of a run: check it, keep an earlier run's files, and record this run."""

from __future__ import annotations

import logging
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vqseg_bundle import __version__
from vqseg_bundle.bundle.records.moved_files import RUN_OUTPUTS, check_inputs_stay
from vqseg_bundle.common import process_rank, read_json, typed_command, wait_for_all, write_json

__all__ = [
    "KEPT_SCANS",
    "check_writable",
    "default_run",
    "evaluation_folder",
    "prediction_folder",
    "prepare_output_dir",
    "put_aside",
    "recorded_digest",
    "resume_command",
    "training_folder",
    "write_run_record",
]

logger = logging.getLogger(__name__)

KEPT_SCANS = ".kept_scans"
"""Folder in a training's output folder for prepared scans that memory does not hold; gone when the training ends."""

_INFERENCE_LOG = "inference.log"
_WEIGHTS = ("model.pt", "resume.pt", "resume.previous.pt")


def default_run(bundle_root: str | Path) -> str:
    """Default output folder of a training: ``runs/train`` in the bundle's folder."""
    return str(Path(bundle_root) / "runs" / "train")


def training_folder(output_dir: str | None, bundle_root: str | Path, in_place: bool) -> str:
    """The output folder of a training.

    Args:
        output_dir: the user's choice, or None.
        bundle_root: the bundle's folder.
        in_place: whether the bundle's own weights are trained further, in ``models/``.
    """
    return output_dir or (str(Path(bundle_root) / "models") if in_place else default_run(bundle_root))


def evaluation_folder(output_dir: str | None, bundle_root: str | Path, checkpoint: str | Path) -> str:
    """The output folder of an evaluation: that of the weights if it is a training's default folder, otherwise
    ``eval/``.

    Args:
        output_dir: the user's choice, or None.
        bundle_root: the bundle's folder.
        checkpoint: the weights.
    """
    run = Path(default_run(bundle_root))
    return output_dir or str(run if Path(checkpoint).parent == run else Path(bundle_root) / "eval")


def prediction_folder(output_dir: str | Path, kind: str) -> str:
    """The folder of a run's predictions: ``predictions/``, or ``<kind>/predictions/`` if the other kind uses the
    former.

    Thus inference never moves or mixes with an evaluation's predictions, or vice versa.

    Args:
        output_dir: the run's output folder.
        kind: "evaluation" or "inference".

    Raises:
        ValueError: ``kind`` is neither.
    """
    if kind not in ("evaluation", "inference"):
        raise ValueError(f'kind must be "evaluation" or "inference", got {kind!r}.')
    shared = Path(output_dir) / "predictions"
    owner = "inference" if (shared / _INFERENCE_LOG).exists() else "evaluation"
    return str(shared if owner == kind or not shared.exists() else Path(output_dir) / kind / "predictions")


def check_writable(output_dir: str | Path) -> None:
    """Check, before any work, that results can be written; nothing is created.

    Args:
        output_dir: the folder, which may not exist yet.

    Raises:
        ValueError: the folder, or its nearest existing parent, is a file or not writable.
    """
    folder = Path(output_dir).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"output_dir '{output_dir}' is not writable: {folder} is a file. Name a folder.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"output_dir '{output_dir}' is not writable: {error.strerror} in {folder}. Name another folder."
        ) from error


def prepare_output_dir(
    output_dir: str | Path, resume: bool, keep: bool = False, inputs: Sequence[tuple[str, str]] = ()
) -> Path | None:
    """Create the output folder, and move an earlier run's files aside; only what a killed run kept of scans is deleted.

    If there are weights of a training and the run does not resume, everything that matches
    :data:`~vqseg_bundle.bundle.records.moved_files.RUN_OUTPUTS` moves to ``previous-<date>-<time>/`` in the same
    folder. With ``keep`` it is copied instead, for a folder whose weights remain in use (MONAI Label continues from the
    bundle's own models/model.pt). Call it before this run opens a file there, and on every process: the first one acts,
    the others wait.

    Args:
        output_dir: the folder.
        resume: whether this run resumes the earlier one.
        keep: copy the earlier run's files instead of moving them.
        inputs: this run's, see :func:`~vqseg_bundle.bundle.records.moved_files.named_inputs`.

    Returns:
        The folder of the earlier run's files, None if there were none (or another process moved them).

    Raises:
        ValueError: an input is among the files to move.
    """
    moved = None
    if process_rank() == 0:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / KEPT_SCANS, ignore_errors=True)
        if not resume and any((folder / name).exists() for name in _WEIGHTS):
            moved = put_aside(folder, RUN_OUTPUTS, keep, inputs)
    wait_for_all()
    return moved


def write_run_record(
    output_dir: str | Path,
    parser_config: Mapping[str, Any],
    cohort_digest: str | None,
    command: Sequence[str],
    prefix: str = "",
    mixed_precision: bool | None = None,
    learnt_from: Sequence[str] = (),
) -> None:
    """Write ``config.json`` (the configuration as run) and ``run.json`` (versions, data, command, time).

    Only the first process writes.

    Args:
        output_dir: the folder to write to.
        parser_config: the whole configuration with all overlays and overrides merged, ``running_parser().get()``;
            expressions are kept as text, objects without a JSON form are written as their text.
        cohort_digest: digest of the data, or None.
        command: the command line, ``sys.argv``.
        prefix: prefix of both file names, so that an evaluation does not replace the training's record.
        mixed_precision: whether the training computes in mixed precision; None if that is not recorded.
        learnt_from: marks of patients, see :mod:`vqseg_bundle.bundle.records.learnt_patients`.
    """
    if process_rank() != 0:
        return
    folder = Path(output_dir)
    config = {key: _as_json(value) for key, value in parser_config.items() if key != "_meta_"}
    write_json(folder / f"{prefix}config.json", config)
    record = {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": _readable(command),
        "data_digest": cohort_digest,
        "git_commit": git_commit(Path(__file__).resolve().parents[3]),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        **({} if mixed_precision is None else {"mixed_precision": mixed_precision}),
        **({"learnt_from": list(learnt_from)} if learnt_from else {}),
        "versions": {
            "python": platform.python_version(),
            "vqseg_bundle": __version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "monai": version("monai"),
            "ignite": version("pytorch-ignite"),
            "numpy": version("numpy"),
        },
    }
    write_json(folder / f"{prefix}run.json", record)


def recorded_digest(folder: str | Path) -> str | None:
    """Digest of the data of the training in a folder, by its ``run.json``; None if there is none, or it is damaged."""
    try:
        found = read_json(Path(folder) / "run.json").get("data_digest")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def put_aside(
    folder: str | Path, patterns: Sequence[str], keep: bool = False, inputs: Sequence[tuple[str, str]] = ()
) -> Path | None:
    """Move an earlier run's files in a folder to ``previous-<date>-<time>/`` in it; nothing is deleted.

    Args:
        folder: the folder, which may not exist.
        patterns: glob patterns of the files.
        keep: copy the files instead; folders move.
        inputs: this run's, see :func:`~vqseg_bundle.bundle.records.moved_files.named_inputs`.

    Returns:
        Their new folder, None if there were none.

    Raises:
        ValueError: an input is among the files to move.
    """
    folder = Path(folder)
    found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if not found:
        return None
    check_inputs_stay(folder, [path for path in found if not (keep and path.is_file())], inputs)
    name = f"previous-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    target = folder / name
    for number in range(2, 1000):
        if not target.exists():
            break
        target = folder / f"{name}-{number}"
    target.mkdir()
    names = [path.relative_to(folder) for path in found]
    for path, place in zip(found, names, strict=True):
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        if keep and path.is_file():
            shutil.copy2(path, target / place)
        else:
            path.rename(target / place)
    logger.info("An earlier run lay in %s: %s now in %s", folder, ", ".join(map(str, names)), target.name)
    return target


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def resume_command(command: Sequence[str]) -> str:
    """The command line that goes on with what this one has begun.

    Args:
        command: the process's own, such as ``sys.argv``, which counts if no ``vqseg`` was typed.
    """
    words = typed_command() or _readable(command)
    return shlex.join(words if "--resume" in words else [*words, "--resume", "true"])


def _readable(command: Sequence[str]) -> list[str]:
    """Replace the path of MONAI's entry point by its command, which is the same on any machine."""
    if command and Path(command[0]).parts[-3:] == ("monai", "bundle", "__main__.py"):
        return ["python", "-m", "monai.bundle", *command[1:]]
    return list(command)


def git_commit(root: Path) -> str | None:
    """Return the commit of the bundle's checkout; None outside a checkout.

    Args:
        root: the bundle's folder.

    Returns:
        the commit, followed by "-dirty" if files differ, except the weights, which a training into models/ replaces.
    """
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)models")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
