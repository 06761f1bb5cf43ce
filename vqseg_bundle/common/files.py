"""Atomic writing of files, output of file names and commands, and the location of the project's own files."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "cache_folder",
    "is_disk_full",
    "json_value",
    "print_any_name",
    "project_folder",
    "replacing",
    "shell_line",
    "write_json",
    "write_text",
]
_PACKAGE = Path(__file__).parents[1]
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A partial file beside ``path`` to write to; it takes the path's place if the block ends well, else it is removed.

    The folder is made if missing. After a power failure there is the former file or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or the one behind it, says that no more can be written: no space or quota left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) in one step; its folder is made if missing."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file in one step; numpy numbers and arrays become numbers and lists, paths become text.

    ValueError: a value has no JSON form (NaN and infinity included).
    """
    try:
        text = json.dumps(content, indent=2, default=json_value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot write {path}: {error}") from error
    write_text(path, text + "\n")


def json_value(value: Any) -> Any:
    """JSON form of numpy values and paths, for the argument ``default`` of :func:`json.dumps`.

    Raises:
        TypeError: the value has no JSON form.
    """
    import numpy as np  # here, so that commands that need none of it start at once

    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} {value!r} has no JSON form")


def print_any_name() -> None:
    """Let this process print and log file names that are not valid UTF-8; such bytes are shown as ``\\udcff``.

    Otherwise Python would end the command, or lose the line of the log.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def shell_line(words: Sequence[str]) -> str:
    """A command as it is typed in a shell; a list of files has double quotes around it, as in the documents."""
    return " ".join(
        f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word) for word in words
    )


def cache_folder(name: str) -> Path:
    """A folder for what can be made anew, ``$XDG_CACHE_HOME/vqseg_bundle/NAME`` or below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vqseg_bundle" / name


def project_folder() -> Path:
    """The folder with ``configs`` and ``LICENSE``.

    A wheel has both inside the package, in ``resources``; in a checkout and in a bundle they are beside it.
    """
    resources = _PACKAGE / "resources"
    return resources if resources.is_dir() else _PACKAGE.parent
