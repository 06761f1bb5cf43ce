"""What a run began with, so that an interrupted training goes on instead of beginning again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vqseg_bundle
from vqseg_bundle.common import write_json
from vqseg_bundle.handlers import find_resumable

__all__ = ["BEGINNING", "can_go_on", "damage", "note_beginning", "note_continuation", "seconds_before"]

#: Written before the first command of a run.
BEGINNING = "begun.json"
_SAVED = ("resume.pt", "resume.previous.pt")


def note_beginning(folder: Path, settings: Mapping[str, Any], inputs: str | None) -> None:
    """Write what a run begins with, the package's code included.

    Args:
        folder: the run's folder; created.
        settings: everything that determines it except its data.
        inputs: digest of its input.
    """
    folder.mkdir(parents=True)
    _write(folder, {"settings": settings, "inputs": inputs, "code": _code_digest()}, 0.0)


def note_continuation(folder: Path) -> None:
    """Add the time from the last start to the last save to what the training has taken; it goes on now."""
    begun = json.loads((folder / BEGINNING).read_text(encoding="utf-8"))
    saved = max(path.stat().st_mtime for path in map(folder.joinpath, _SAVED) if path.is_file())
    _write(folder, begun, begun["seconds_before"] + max(0.0, saved - begun["started"]))


def seconds_before(folder: Path) -> float:
    """What the training had taken when it was last interrupted; 0 if it never was."""
    return float(json.loads((folder / BEGINNING).read_text(encoding="utf-8"))["seconds_before"])


def can_go_on(folder: Path, settings: Mapping[str, Any], inputs: str | None) -> bool:
    """Whether a run's training has saved its state, and began with the same settings, input and code.

    Args:
        folder: the run's folder.
        settings: see :func:`note_beginning`.
        inputs: likewise; None if the data are not available, and thus not compared.
    """
    if not any((folder / name).is_file() for name in _SAVED):
        return False
    try:
        begun = json.loads((folder / BEGINNING).read_text(encoding="utf-8"))
        same_code = begun["code"] == _code_digest()
        return same_code and begun["settings"] == settings and inputs in (None, begun["inputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _code_digest() -> str:
    """SHA-256 of the package's modules: a record names one commit, and thus one code for the whole training."""
    root = Path(vqseg_bundle.__file__).parent
    texts = (f"{path.relative_to(root)}\n".encode() + path.read_bytes() for path in sorted(root.rglob("*.py")))
    return hashlib.sha256(b"\n".join(texts)).hexdigest()


def damage(folder: Path) -> str:
    """Why a training cannot go on from what it saved; empty if it can."""
    try:
        find_resumable(folder / _SAVED[0])
    except ValueError as error:
        return str(error)
    return ""


def _write(folder: Path, begun: Mapping[str, Any], seconds: float) -> None:
    write_json(folder / BEGINNING, {**begun, "started": time.time(), "seconds_before": seconds})
