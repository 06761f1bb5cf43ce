"""Names of DICOM cases as people look for them: the folder's where a person chose it, else the patient's.

Archives call folders ``PA000001/ST000001/SE000002``, or by UIDs, which tells nobody anything.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from itertools import compress
from pathlib import Path

from ..formats import SeriesLabels, parse_volume_path, series_labels, volume_kind

__all__ = ["naming_paths"]

_TELLS_NOTHING = re.compile(
    r"([a-z]{2,3}[._-])?\d+(\.\d+){3,}"  # a UID
    r"|(dicom|dcm|images?|img|series|study|studies)[-_ ]?\d*"
    r"|(pa|pat|st|std|stu|se|ser|srs|s|ex|im|img)[-_ ]?\d{4,}"
    r"|0{3}[0-9a-f]+"  # a count
    r"|(?=.*\d)(?=.*[a-f])[0-9a-f]{8}(-?[0-9a-f]{4,})*",  # a digest, or a UUID
    re.IGNORECASE,
)
_NOT_IN_NAMES = re.compile(r"[^\w-]+")
_LONGEST_PART = 40


def naming_paths(paths: Sequence[str]) -> list[str]:
    """For each volume a path whose last part is what its case should be called.

    A volume that is no DICOM folder, or the only series of a folder whose name tells something, keeps its own. Other
    series are called by such a folder or by PatientID, and behind it by what differs among the series of that folder or
    patient: PatientID, StudyDate, StudyDescription, SeriesNumber, SeriesDescription. What no attribute tells apart is
    left to :func:`~vqseg_bundle.data.layouts.case_names.unique_case_ids`.

    Args:
        paths: volumes, see :mod:`vqseg_bundle.data.formats.volume_path`.
    """
    groups: dict[tuple[Path | None, str], dict[str, SeriesLabels]] = defaultdict(dict)
    for path, labels in _unnamed(paths).items():
        folder, patient = parse_volume_path(path).file, _part(labels.patient)
        tells = _tells(folder)
        start = folder.name if tells or not patient else patient
        groups[folder if tells else None, start][path] = labels
    names: dict[str, str] = {}
    for (_, start), members in groups.items():
        for path, parts in _differences(members).items():
            names[path] = str(parse_volume_path(path).file.with_name("_".join([start, *parts])))
    return [names.get(path, path) for path in paths]


def _unnamed(paths: Sequence[str]) -> dict[str, SeriesLabels]:
    """Series that their folder does not name by itself, and what they say of themselves."""
    folders = defaultdict(list)
    for path in paths:
        folder = parse_volume_path(path).file
        if volume_kind(path) == "dicom" and folder.is_dir():
            folders[folder].append(path)
    found = {}
    for folder, members in folders.items():
        if len(members) > 1 or not _tells(folder):
            known = series_labels(folder)
            for path in members:
                uid = parse_volume_path(path).series_uid or next(iter(known), "")
                found[path] = known.get(uid, SeriesLabels())
    return found


def _differences(members: Mapping[str, SeriesLabels]) -> dict[str, list[str]]:
    """Of each path's labels those that are not the same in all."""
    columns = zip(*map(astuple, members.values()), strict=True)
    differ = [len(set(column)) > 1 for column in columns]
    return {
        path: [_part(text) for text in compress(astuple(labels), differ) if _part(text)]
        for path, labels in members.items()
    }


def _tells(folder: Path) -> bool:
    return not _TELLS_NOTHING.fullmatch(folder.name)


def _part(text: str) -> str:
    return _NOT_IN_NAMES.sub("_", text).strip("_")[:_LONGEST_PART]
