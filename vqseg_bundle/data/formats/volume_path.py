"""Paths of volumes: a file, one DICOM series of a folder, or several files of one volume.

The path of a volume is that of its file, or of the folder of its DICOM slices. ``FOLDER#UID`` is the series with that
SeriesInstanceUID if a folder has several; ``FOLDER#uneven`` or ``FOLDER#UID&uneven`` is read although its slices are
not evenly spaced. ``FIRST|SECOND|THIRD`` is a volume whose channels are in separate volumes, in this order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "VolumePath",
    "accepts_uneven",
    "channel_paths",
    "join_channels",
    "join_volume_path",
    "parse_volume_path",
]

_UNEVEN = "uneven"
_CHANNELS = "|"


@dataclass(frozen=True)
class VolumePath:
    """A file, or a folder of DICOM slices; its series (empty for the only one), and whether slices may be uneven."""

    file: Path
    series_uid: str = ""
    accept_uneven: bool = False

    def __str__(self) -> str:
        marks = [mark for mark in (self.series_uid, _UNEVEN if self.accept_uneven else "") if mark]
        return f"{self.file}#{'&'.join(marks)}" if marks else str(self.file)


def join_channels(paths: Iterable[str]) -> str:
    """The path of the volume with these channels, in order; a single path is returned unchanged."""
    return _CHANNELS.join(paths)


def channel_paths(path: str | Path) -> list[str]:
    """Paths of a volume's channels, in order, or the path itself; a ``|`` in an existing file's name is part of it."""
    parts, found = str(path).split(_CHANNELS), list[str]()
    while parts:
        whole = (_CHANNELS.join(parts[:count]) for count in range(len(parts), 1, -1))
        found.append(next(filter(os.path.exists, whole), parts[0]))
        del parts[: found[-1].count(_CHANNELS) + 1]
    return found


def parse_volume_path(path: str | Path) -> VolumePath:
    """Split a path (of channels, the first) into location, series and mark; an existing file's ``#`` is in its name."""
    text = channel_paths(path)[0]
    place, mark, choice = text.rpartition("#")
    if not mark or "/" in choice or Path(text).exists():
        return VolumePath(Path(text))
    marks = choice.split("&")
    uid = "".join(mark for mark in marks if mark != _UNEVEN)
    return VolumePath(Path(place), uid, _UNEVEN in marks)


def join_volume_path(path: str | Path, series_uid: str = "", accept_uneven: bool = False) -> str:
    """The path of one volume with a series chosen or uneven slices accepted; choices already in it are kept."""
    parsed = parse_volume_path(path)
    return str(VolumePath(parsed.file, series_uid or parsed.series_uid, accept_uneven or parsed.accept_uneven))


def accepts_uneven(uneven_slices: str) -> bool:
    """Whether the key ``uneven_slices`` says "accept"; ValueError if it does not say "refuse" either."""
    if uneven_slices not in ("refuse", "accept"):
        raise ValueError(f'uneven_slices must be "refuse" or "accept", got {uneven_slices!r}.')
    return uneven_slices == "accept"
