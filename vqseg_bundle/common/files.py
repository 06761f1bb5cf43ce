"""Atomic writing of files, tables and commands as text, and the location of the project's own files."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

__all__ = [
    "cache_folder",
    "csv_text",
    "expand_user",
    "file_digest",
    "is_disk_full",
    "json_value",
    "plain_cell",
    "project_folder",
    "read_json",
    "relative_path_note",
    "remove_partial_files",
    "replacing",
    "shell_line",
    "write_json",
    "write_text",
]
_PACKAGE = Path(__file__).parents[1]
_PARTIAL = re.compile(r"\..+\.(\d+)")
_RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r")
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


def expand_user(path: str | Path) -> str:
    """A path with the user's folder in place of a leading ``~``; a folder that is itself called so is made absolute.

    ``Path`` would drop the first part of ``./~``, and whoever expands it once more would find the user's folder.
    """
    text = os.path.expanduser(path)  # noqa: PTH111
    return str(Path(text).absolute()) if str(Path(text)).startswith("~") else text


def relative_path_note(path: str | Path) -> str:
    """A sentence, with a blank before it, that follows a path that does not exist; empty for an absolute one."""
    return "" if Path(path).is_absolute() else f" Relative paths start at the working directory, {Path.cwd()}."


def remove_partial_files(folder: Path) -> list[str]:
    """Remove what killed processes left of files that :func:`replacing` wrote in a folder; returns the names."""
    found = {path: _PARTIAL.fullmatch(path.name) for path in folder.glob(".*")}
    left = [path for path, match in found.items() if match and path.is_file() and not _at_work(int(match[1]))]
    for path in left:
        path.unlink(missing_ok=True)
    return [path.name for path in left]


def _at_work(process: int) -> bool:
    if process == os.getpid():  # in a container it is always the same, and this one has not begun
        return False
    try:
        return psutil.pid_exists(process)
    except OverflowError:
        return False


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


def read_json(path: Path) -> Any:
    """The content of a JSON file (UTF-8, with or without a byte-order mark).

    ValueError: it is not JSON, too deeply nested, or has a key twice, of which one would silently be lost.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_keys)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f'key "{next(name for name in names if names.count(name) > 1)}" is there twice')
    return found


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV; texts that a spreadsheet would run as a formula get an apostrophe before them, numbers do not."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    try:
        float(cell)
    except ValueError:
        # a carriage return within a cell would end the row for many readers
        return ("'" if cell.startswith(_RUN_BY_SPREADSHEETS) else "") + cell.replace("\r", " ")
    return cell


def plain_cell(cell: str) -> str:
    """A text that :func:`csv_text` wrote, without the apostrophe that it may have put before it."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_RUN_BY_SPREADSHEETS) else cell


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


def file_digest(path: Path) -> str:
    """SHA-256 of a file that fits into memory, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
