"""Which volumes of a watched folder are to be segmented: those that ``vqseg segment FOLDER`` would segment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from vqseg_bundle.common import permission_text
from vqseg_bundle.data import DataError, list_volumes, source_files
from vqseg_bundle.data.formats.volume_path import channel_paths, parse_volume_path

__all__ = ["Arrival", "Arrivals", "Cases", "sort_arrivals", "why_refused"]

Cases = list[dict[str, str]]
_LEFT_OUT = "left out, as labels, predictions, previews and links are without --watch; to segment it, name it itself."


class Arrival(NamedTuple):
    """What is complete.

    Attributes:
        path: a file or folder in the watched one; the watched one itself for DICOM slices directly in it.
        cases: its volumes, as :func:`~vqseg_bundle.data.list_volumes` gives them.
        refusal: why it has none; empty if it has.
    """

    path: Path
    cases: Cases
    refusal: str = ""


class Arrivals(NamedTuple):
    """What a look at a watched folder has found.

    Attributes:
        arrivals: in the order of their paths.
        entries: files and folders in the watched one that need no further look.
    """

    arrivals: list[Arrival]
    entries: set[Path]


def sort_arrivals(
    folder: Path,
    ready: Sequence[Path],
    changing: Collection[Path],
    segmented: set[frozenset[Path]],
    list_cases: Callable[[Path], Cases] = list_volumes,
    changed: Collection[Path] = (),
) -> Arrivals:
    """The volumes among the arrivals, by the rules for a whole folder; what is none of them is refused with a reason.

    Args:
        folder: the watched folder.
        ready: files and folders in it that are complete and not done.
        changing: those that are still written.
        segmented: entries of each volume that was found before, to which this look adds; a volume that has more files
            now, such as a series whose slices arrive slowly, comes again.
        list_cases: :func:`~vqseg_bundle.data.list_volumes`, with options.
        changed: those of ``ready`` whose volumes come again, since they have changed after they were done.
    """
    segmented -= {entries for entries in segmented if not entries.isdisjoint(changed)}
    try:
        cases = list_cases(folder)
    except (ValueError, OSError):  # nothing in the folder is a volume; each entry says so
        cases = []
    volumes, waiting, known = defaultdict[Path, Cases](list), set[Path](), set[Path]()
    found = set[frozenset[Path]]()
    for case, entries in zip(cases, _entries(folder, cases), strict=True):
        known |= entries
        if not entries.intersection(ready) or entries in segmented:
            continue
        if entries.intersection(changing):
            waiting |= entries
            continue
        found.add(entries)
        in_it = parse_volume_path(case["image"]).file == folder.absolute()
        volumes[folder if in_it else min(entries)].append(case)
    segmented |= found
    arrivals = [Arrival(path, members) for path, members in volumes.items()]
    arrivals += [Arrival(path, [], _why_none(path, list_cases)) for path in ready if path not in known]
    return Arrivals(sorted(arrivals, key=lambda arrival: arrival.path), set(ready) - waiting)


def why_refused(error: Exception) -> str:
    """An error about a volume, on one line."""
    text = permission_text(error) if isinstance(error, PermissionError) else str(error)
    return " ".join(text.split())


def _why_none(path: Path, list_cases: Callable[[Path], Cases]) -> str:
    try:
        list_cases(path)
    except (ValueError, OSError) as error:
        return why_refused(error)
    return _LEFT_OUT


def _entries(folder: Path, cases: Cases) -> list[frozenset[Path]]:
    """For each volume, the files and folders in the watched one that it consists of, or lies in."""
    place = folder.absolute()
    channels = [channel_paths(case["image"]) for case in cases]
    others = {parse_volume_path(channel).file for members in channels for channel in members}
    files = [[file for channel in members for file in _files(channel, place, others)] for members in channels]
    return [
        frozenset(folder / file.relative_to(place).parts[0] for file in members if file.is_relative_to(place))
        for members in files
    ]


def _files(channel: str, place: Path, others: Collection[Path]) -> list[Path]:
    """Those of a volume directly in the watched folder; of one further below, its path is enough."""
    file = parse_volume_path(channel).file
    if place not in (file, file.parent):
        return [file]
    try:
        return [Path(each) for each in source_files(channel)]
    except (DataError, OSError):  # one is missing: any file may be of the series
        loose = [each for each in place.iterdir() if each.is_file() and each not in others and each.name[0] != "."]
        return loose if file == place else [file]
