"""A run on disk, with a record of its settings, so that only changed runs are repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from scripts.comparison.beginnings import can_go_on, damage
from scripts.comparison.bundle_runs import expanded
from scripts.comparison.datasets import OpenedDataset, file_digest
from scripts.comparison.plan import Run
from scripts.comparison.plan_file import CONFIGS
from vqseg_bundle import __version__
from vqseg_bundle.common import write_json

__all__ = [
    "FINISHED",
    "INTERRUPTED",
    "RECORD",
    "RunState",
    "inputs_digest",
    "put_run_aside",
    "run_settings",
    "run_state",
    "save_record",
]

#: Written last in a run.
RECORD = "finished.json"
#: Other files that a run must have written.
RESULTS = ("metrics.csv", "summary.json")
#: State of a run that need not be repeated.
FINISHED = "finished"
#: State of a run whose training goes on from what it saved last.
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class RunState:
    """The state of a run.

    Attributes:
        state: "missing", "unfinished", :data:`INTERRUPTED`, "changed" or :data:`FINISHED`.
        changes: why it begins again: differences from the record, or what of the saved training cannot be read.
        record: the record of a finished or changed run, otherwise empty.
    """

    state: str
    changes: str = ""
    record: Mapping[str, Any] | None = None


def run_settings(run: Run) -> dict[str, Any]:
    """Everything that determines a run except its data, as plain data independent of the machine.

    Returns:
        "split", "seed", "overrides" (with variables not filled in), "configs" (digest of each file's content) and
        "version" (of the package).
    """
    names = ("train.json", *run.method.configs, "evaluate.json")
    settings = {
        "split": run.split,
        "seed": run.seed,
        "overrides": dict(run.overrides),
        "configs": {name: _config_digest(CONFIGS / name) for name in names},
        "version": __version__,
    }
    return json.loads(json.dumps(settings))


def inputs_digest(run: Run, dataset: OpenedDataset) -> str:
    """SHA-256 of a run's input: its data, and the files named by its overrides."""
    files = [Path(value) for value in expanded(run.overrides).values() if isinstance(value, str)]
    digests = [file_digest(file) for file in files if file.is_file()]
    return hashlib.sha256("\n".join([dataset.digest, *digests]).encode()).hexdigest()


def run_state(folder: Path, settings: Mapping[str, Any], inputs: str | None) -> RunState:
    """Compare a run's record with its present settings and input.

    Args:
        folder: the run's folder.
        settings: see :func:`run_settings`.
        inputs: see :func:`inputs_digest`; None if the data are not available, and thus not compared.

    Raises:
        ValueError: the record cannot be read.
    """
    path = folder / RECORD
    if not folder.exists():
        return RunState("missing")
    if not all((folder / name).is_file() for name in (RECORD, *RESULTS)):
        if not can_go_on(folder, settings, inputs):
            return RunState("unfinished")
        reason = damage(folder)
        return RunState("unfinished", reason) if reason else RunState(INTERRUPTED)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        changes = _changes(record["settings"], settings)
        if inputs is not None and record["inputs"] != inputs:
            changes.append("the data or their split, or a file that an override names")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected the record of a finished run, but: {error!r}; move the folder.") from error
    return RunState("changed" if changes else FINISHED, ", ".join(changes), record)


def save_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a run's record atomically, which marks the run as finished.

    Args:
        folder: the run's folder.
        record: with "settings", "inputs", and information for the report.

    Raises:
        ValueError: a result is missing.
    """
    missing = [name for name in RESULTS if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: the commands ended well, but wrote no {missing[0]}.")
    write_json(folder / RECORD, record)


def put_run_aside(output: Path, run: Run) -> Path | None:
    """Move a run's folder to ``aside/<dataset>/<method>/seed<k>-<time>``; nothing is deleted.

    Returns:
        the new path; None if there was nothing.
    """
    folder = output / run.folder
    if not folder.exists():
        return None
    parent = output / "aside" / run.folder.parent.relative_to("runs")
    parent.mkdir(parents=True, exist_ok=True)
    name = f"{folder.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    taken = len(list(parent.glob(f"{name}*")))
    target = parent / (f"{name}-{taken + 1}" if taken else name)
    folder.rename(target)
    return target


def _config_digest(path: Path) -> str:
    content = json.dumps(ConfigParser.load_config_file(str(path)), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences, most informative first: values of overrides, then files and versions."""
    before, after = old["overrides"], new["overrides"]
    keys = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    changes = [f"{key}: {before.get(key, 'not given')} -> {after.get(key, 'not given')}" for key in keys]
    configs = sorted(set(old["configs"].items()) ^ set(new["configs"].items()))
    changes += [f"configs/{name}" for name in dict.fromkeys(name for name, _ in configs)]
    return changes + [
        f"{key}: {old[key]} -> {new[key]}" for key in ("split", "seed", "version") if old[key] != new[key]
    ]
