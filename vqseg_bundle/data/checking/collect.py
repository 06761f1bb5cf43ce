"""Read the facts of all files of a cohort, in a few threads, each file once, and only where they are not remembered."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from ..cohorts.datalist import DataError
from ..formats.volume_path import channel_paths, parse_volume_path
from .facts import Facts, read_facts
from .facts_cache import FactsCache
from .findings import Finding

__all__ = ["collect_facts"]


def collect_facts(
    files: Iterable[tuple[str, str]], cache: FactsCache, progress: bool, title: str
) -> tuple[dict[tuple[str, str], Facts], list[Finding]]:
    """Read facts, with a bar that shows the time left.

    Args:
        files: paths, each with the kind of facts: ``"header"``, ``"image"`` or ``"label"``.
        cache: asked first, and told what is new.
        progress: whether the bar is shown on a terminal.
        title: of the bar.

    Returns:
        Facts by path and kind, and an error for each file that cannot be read.
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

    # Unpacking and hashing release the interpreter's lock, and threads need no second import of torch, which takes
    # longer than a thousand small volumes. Every thread holds a volume, so there are few.
    with ThreadPoolExecutor(min(4, max(2, os.cpu_count() or 2))) as pool:
        bar = tqdm(pool.map(read, wanted), title, len(wanted), unit="file", disable=None if progress else True)
        for key, result in zip(wanted, bar, strict=True):
            if isinstance(result, Finding):
                problems.append(result)
            else:
                facts[key] = result
    return facts, problems


def _unreadable(path: str, message: str) -> Finding:
    """The finding that a reader's message is: ``"path: what was found; remedy."``, or two sentences."""
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
    elif any(file.is_file() and file.stat().st_size == 0 for file in files):
        code, expected = "empty_file", "a volume"
    else:
        code, expected = "unreadable_file", "a whole, readable volume"
    return Finding(code, (path,), text, expected, found, remedy)
