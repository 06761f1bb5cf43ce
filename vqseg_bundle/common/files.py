"""Files written in one step, names of any bytes in output, and where the project's own files are."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["json_value", "print_any_name", "project_folder", "replacing", "write_json", "write_text"]
_PACKAGE = Path(__file__).parents[1]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A partial file beside ``path`` to write to, which takes its place when the block ends well.

    Args:
        path: the file to write; its folder is made if missing.

    Yields:
        the partial file's path; the file is removed where the block fails.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) in one step.

    Args:
        path: the file to write; its folder is made if missing.
        text: its content.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file in one step.

    Args:
        path: the file to write; its folder is made if missing.
        content: what to write; numpy numbers and arrays become numbers and lists, paths become text.

    Raises:
        ValueError: a value has no JSON form (NaN and infinity included).
    """
    try:
        text = json.dumps(content, indent=2, default=json_value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot write {path}: {error}") from error
    write_text(path, text + "\n")


def json_value(value: Any) -> Any:
    """What JSON holds in place of a value that it does not know; an argument ``default`` of :func:`json.dumps`.

    Raises:
        TypeError: there is no such form.
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} {value!r} has no JSON form")


def print_any_name() -> None:
    """Let this process print and log file names whose bytes are no UTF-8: such bytes are shown as ``\\udcff``.

    Python would end a command, or lose a line of its log, where one occurs.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def project_folder() -> Path:
    """The folder that holds ``configs`` and ``LICENSE``.

    A wheel carries both inside the package, in ``resources``; in a checkout and in a made bundle they lie beside it.
    """
    resources = _PACKAGE / "resources"
    return resources if resources.is_dir() else _PACKAGE.parent
