"""The image slices of a DICOM folder, by series; files that are not DICOM or not images are ignored.

An empty, truncated or damaged file that should be a slice is never ignored, since the volume would silently lack a
slice. It counts against its own series if it says which before it ends; otherwise against the series of the files
before and after it by name, or, if the names of series are mixed, against every series of the folder.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ..errors import DataError, file_list
from .dicom_file import DicomSlice, SeriesLabels, has_preamble, read_slice
from .volume_path import VolumePath

__all__ = ["SUFFIXES", "choose_slices", "first_slice", "list_series", "series_labels"]

#: of file names, in lower case; others, or none, are also common
SUFFIXES = (".dcm", ".dicom", ".ima")

_INDEX = "DICOMDIR"
_NUMBER = re.compile(r"[0-9a-f]*\d[0-9a-f]*")


@dataclass(frozen=True)
class _Content:
    """What a folder or file contains: images, and unreadable files as name with fault and the series they may be of."""

    slices: list[DicomSlice]
    unreadable: list[tuple[str, set[str]]]


def list_series(folder: str | Path) -> dict[str, int]:
    """SeriesInstanceUID and number of slices of each series in a folder itself, ordered by UID.

    Localizers (by ImageType) count only where there is nothing else. Broken files do not matter here, see
    :func:`choose_slices`; where there are no others, they are a series without a UID.
    """
    content = _read_folder(Path(folder))
    series = {uid: len(slices) for uid, slices in _by_series(content.slices).items()}
    return series or ({"": len(content.unreadable)} if content.unreadable else {})


def series_labels(folder: str | Path) -> dict[str, SeriesLabels]:
    """Names by which people know each series of a folder, as listed by :func:`list_series`."""
    series = _by_series(_read_folder(Path(folder)).slices)
    return {uid: slices[0].labels for uid, slices in series.items()}


def first_slice(place: Path) -> DicomSlice | None:
    """The first readable slice of a folder by its files' names, or of a file; None without one."""
    for file in sorted(place.iterdir()) if place.is_dir() else [place]:
        if file.is_file() and not file.name.startswith("."):
            with suppress(DataError):
                if item := read_slice(file):
                    return item
    return None


def choose_slices(path: VolumePath) -> list[DicomSlice]:
    """The slices of one series, unordered; of a path to a single file only that file.

    DataError: no image, no such series, several and none is named, or an empty, cut or damaged file in the series.
    """
    content = _read_folder(path.file) if path.file.is_dir() else _read_file(path.file)
    series = _by_series(content.slices)
    if not series and not content.unreadable:
        raise DataError(
            f"{path.file}: expected a volume file, or a folder of DICOM slices, found "
            + ("a folder without DICOM images." if path.file.is_dir() else "a DICOM file without an image.")
        )
    if path.series_uid and path.series_uid not in series:
        raise DataError(f"{path.file}: no DICOM series {path.series_uid}; found {_describe(series)}.")
    if not path.series_uid and len(series) > 1:
        raise DataError(
            f"{path.file}: expected one DICOM series, found {len(series)}: {_describe(series)}. Name one of them: "
            f'"{path.file.name}#UID" as the path, or "series": "UID" beside it in the datalist.'
        )
    uid = path.series_uid or next(iter(series), "")
    faults = [f"{Path(item.file).name} {item.fault}" for item in series.get(uid, []) if item.fault]
    faults += [fault for fault, uids in content.unreadable if not series or uid in uids]
    _refuse_broken(path.file, sorted(faults))
    return series[uid]


def _refuse_broken(folder: Path, faults: Sequence[str]) -> None:
    if not faults:
        return
    count, them = ("1 slice is", "it") if len(faults) == 1 else (f"{len(faults)} slices are", "them")
    raise DataError(
        f"{folder}: {count} missing: {file_list(faults)}; copy {them} again, or take what is no "
        "slice of the series out of the folder."
    )


def _read_file(file: Path) -> _Content:
    try:
        item = read_slice(file)
    except DataError as error:
        return _Content([], [(_fault(file, error), set())])
    return _Content([item] if item else [], [])


def _read_folder(folder: Path) -> _Content:
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")]
    found: dict[Path, DicomSlice] = {}
    broken: dict[Path, str] = {}
    patterns: set[str] = set()
    for file in files:
        try:
            item = read_slice(file)
        except DataError as error:
            broken[file] = _fault(file, error)
            continue
        patterns.add(_pattern(file))
        if item is not None:
            found[file] = item
    for file in _cut_off_headers(found):
        broken[file] = f"{file.name} {found.pop(file).fault}"
    unreadable = [(fault, _owners(file, found)) for file, fault in broken.items() if _should_be_slice(file, patterns)]
    return _Content(list(found.values()), unreadable)


def _cut_off_headers(found: Mapping[Path, DicomSlice]) -> list[Path]:
    """Files that end in their header, of a series that no whole file is of: the UID may be the beginning of one."""
    whole = {item.series_uid for item in found.values() if not item.fault}
    cut = {file: item for file, item in found.items() if item.fault and not (item.rows and item.columns)}
    return [file for file, item in cut.items() if whole and item.series_uid not in whole]


def _owners(file: Path, found: Mapping[Path, DicomSlice]) -> set[str]:
    """Series to which a file may belong, by the order of names."""
    runs = [uid for uid, _ in groupby(item.series_uid for item in found.values())]
    if len(set(runs)) < len(runs):
        return set(runs)
    before = [item.series_uid for other, item in found.items() if other < file][-1:]
    behind = [item.series_uid for other, item in found.items() if other > file][:1]
    return {*before, *behind}


def _should_be_slice(file: Path, patterns: set[str]) -> bool:
    """Whether an unreadable file is DICOM by its content or suffix, or is named like the DICOM files."""
    if file.name.upper() == _INDEX:
        return False
    by_name = file.name.lower().endswith(SUFFIXES) or _pattern(file) in patterns
    return by_name or has_preamble(file)


def _pattern(file: Path) -> str:
    """The name without its counting part: the same for ``IM0007`` and ``IM0012``, and for UIDs of one length."""
    return _NUMBER.sub("0", file.name.lower())


def _fault(file: Path, error: Exception) -> str:
    reason = str(error).removeprefix(f"{file}: ").partition("; ")[0]
    return f"{file.name} {reason}"


def _by_series(slices: Sequence[DicomSlice]) -> dict[str, list[DicomSlice]]:
    kept = [item for item in slices if not item.localizer] or slices
    series: dict[str, list[DicomSlice]] = defaultdict(list)
    for item in kept:
        series[item.series_uid].append(item)
    return dict(sorted(series.items()))


def _describe(series: dict[str, list[DicomSlice]]) -> str:
    texts = []
    for uid, slices in series.items():
        first = slices[0]
        name = f'"{first.labels.description}", ' if first.labels.description else ""
        texts.append(f"{uid} ({first.modality or 'unknown modality'}, {name}{len(slices)} slices)")
    return ", ".join(texts) or "none"
