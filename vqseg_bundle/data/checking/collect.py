"""Facts about all files of a cohort: read in a few threads, each file once, and kept between checks.

Thus the second start of a training does not read every voxel again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vqseg_bundle.common import cache_folder, write_text

from ... import __version__
from ..cohorts.datalist import DataError
from ..formats.table import FORMATS
from ..formats.volume_path import channel_paths, parse_volume_path
from .facts import Facts, facts_from_json, facts_to_json, read_facts
from .findings import Finding

__all__ = ["FactsCache", "cache_path", "collect_facts"]

logger = logging.getLogger(__name__)
_FORMAT = f"10, {__version__}"  # another version may read files differently
_SETTLED_NS = 2_000_000_000  # a file changed twice within the resolution of its time stamp would look unchanged
_DETACHED = tuple(suffix for each in FORMATS for suffix in each.detached)


def cache_path(files: Iterable[str]) -> Path:
    """A cohort's file in ``$XDG_CACHE_HOME/vqseg_bundle/data_check/`` or below ``~/.cache``, one per common folder."""
    folders = {str(Path(place).absolute().parent) for file in files for place in channel_paths(file)}
    root = os.path.commonpath(folders) if folders else ""
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return cache_folder("data_check") / f"{name}.json"


class FactsCache:
    """Facts by file, valid while it is the same file, unchanged by size and times; without a path, none is remembered.

    A cache that cannot be read or written is noted in the log and never raises.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._entries = {} if path is None else _load(path)
        self._changed = False

    def get(self, file: str, kind: str) -> Facts | None:
        """Facts about the current file, or None."""
        entry = self._entries.get(os.path.abspath(file))  # noqa: PTH100
        if entry is None or kind not in entry or entry["stamp"] != _stamp(file):
            return None
        try:
            return facts_from_json(kind, entry[kind])
        except (TypeError, ValueError, KeyError):
            return None

    def put(self, file: str, kind: str, facts: Facts) -> None:
        """Store facts, unless the file is so new that another change could go unnoticed."""
        stamp = _stamp(file)
        if self.path is None or stamp is None or time.time_ns() - stamp["changed_ns"] < _SETTLED_NS:
            return
        key = os.path.abspath(file)  # noqa: PTH100
        entry = self._entries.get(key, {})
        kept = entry if entry.get("stamp") == stamp else {"stamp": stamp}
        self._entries[key] = {**kept, kind: facts_to_json(facts)}
        self._changed = True

    def save(self) -> None:
        """Write new entries atomically, and drop those of removed files."""
        if self.path is None or not self._changed:
            return
        kept = {file: entry for file, entry in self._entries.items() if all(map(Path.exists, _places(file)))}
        try:
            write_text(self.path, json.dumps({"format": _FORMAT, "files": kept}))
        except OSError as error:
            logger.info("data check: its results are not remembered, %s cannot be written (%s)", self.path, error)


def _load(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            return {}
        return {str(file): dict(entry) for file, entry in content["files"].items() if entry["stamp"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("data check: %s is damaged and made anew, every file is read again (%s)", path, error)
        return {}


def _places(file: str) -> list[Path]:
    """The files or folders of a volume's path, without the series."""
    return [parse_volume_path(channel).file for channel in channel_paths(file)]


def _stamp(file: str) -> dict[str, Any] | None:
    """Latest change of all files of a volume, folders included, and a digest; None if it must not be cached.

    Size and modification time alone would not tell when two files of one size and time have changed places. The file's
    number (inode) does, and so does the time of its last renaming.
    """
    places = _places(file)
    if any(path.name.lower().endswith(_DETACHED) for path in places):
        return None
    try:
        stats = [part.stat() for path in places for part in _files(path)]
    except OSError:
        return None
    if not stats:
        return None
    known = [(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for stat in stats]
    return {
        "digest": hashlib.sha256(json.dumps(known).encode()).hexdigest(),
        "changed_ns": max(stat.st_mtime_ns for stat in stats),
    }


def _files(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else [path]


def collect_facts(
    files: Iterable[tuple[str, str]], cache: FactsCache, progress: bool, title: str
) -> tuple[dict[tuple[str, str], Facts], list[Finding]]:
    """Read the facts of files, given as path and kind (see :func:`read_facts`), with a bar that shows the time left.

    Returns:
        Facts by path and kind, and an error per unreadable file.
    """
    wanted = list(dict.fromkeys(files))
    facts: dict[tuple[str, str], Facts] = {}
    problems: list[Finding] = []

    def read(key: tuple[str, str]) -> Facts | Finding:
        known = cache.get(*key)
        if known is not None:
            return known
        try:
            found = read_facts(*key)
        except DataError as error:
            return _unreadable(key[0], str(error))
        cache.put(*key, found)
        return found

    # Decompression and hashing release the interpreter's lock, and threads need no second import of torch, which takes
    # longer than a thousand small volumes. Each thread keeps a volume in memory, so there are few.
    with ThreadPoolExecutor(min(4, max(2, os.cpu_count() or 2))) as pool:
        bar = tqdm(pool.map(read, wanted), title, len(wanted), unit="file", disable=None if progress else True)
        for key, result in zip(wanted, bar, strict=True):
            if isinstance(result, Finding):
                problems.append(result)
            else:
                facts[key] = result
    return facts, problems


#: what the remedy of a missing file is where its name was written on Windows
_SLASHES = "write / for each \\ in the datalist: its paths use /"


def _unreadable(path: str, message: str) -> Finding:
    """The finding in a reader's message: ``"path: what was found; remedy."``, or two sentences."""
    whole = message.removesuffix(".")
    mark = "; " if "; " in whole else ". "
    text, _, remedy = whole.rpartition(mark) if mark in whole else (whole, "", "")
    channels = channel_paths(path)
    culprit = next((name for name in (path, *channels) if text.startswith(f"{name}: ")), path)
    found = text.removeprefix(f"{culprit}: ")
    files = [parse_volume_path(channel).file for channel in channels]
    if "voxel spacing" in found:
        code, expected = "invalid_spacing", "positive, finite voxel spacing"
    elif not all(file.exists() for file in files):
        code, expected = "missing_file", "a file"
        remedy = _SLASHES if any("\\" in file.name for file in files) else remedy
    elif any(file.is_file() and file.stat().st_size == 0 for file in files):
        code, expected = "empty_file", "a volume"
    else:
        code, expected = "unreadable_file", "a whole, readable volume"
    return Finding(code, (path,), text, expected, found, remedy)
