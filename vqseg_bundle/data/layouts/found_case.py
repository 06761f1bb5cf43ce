"""A case in a folder, and names of cases, from the paths of their images; DICOM series as people look for them.

Archives name folders ``PA000001/ST000001/SE000002``, or by UIDs, which mean nothing to people; such cases are named by
PatientID.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import compress, takewhile
from pathlib import Path, PurePath
from typing import Any

from ..errors import DataError
from ..formats.dicom_file import SeriesLabels
from ..formats.dicom_slices import series_labels
from ..formats.table import FORMATS, volume_kind
from ..formats.volume_path import channel_paths, parse_volume_path

__all__ = ["FoundCase", "case_stem", "naming_paths", "patient_of", "stated_patient", "unique_case_ids"]

# of formats alone, so that Mueller.Anna and the dots of a DICOM identifier such as 1.2.840.10008 stay in the name
_SUFFIX = re.compile("({})$".format("|".join(re.escape(each) for known in FORMATS for each in known.suffixes)), re.I)
_SEPARATORS = re.compile(r"([_\-. ]+)")
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # bytes of a name that are not UTF-8
_TELLS_NOTHING = re.compile(
    r"([a-z]{2,3}[._-])?\d+(\.\d+){3,}"  # a UID
    r"|(dicom|dcm|images?|img|series|study|studies)[-_ ]?\d*"
    r"|(pa|pat|st|std|stu|se|ser|srs|s|ex|im|img)[-_ ]?\d{4,}"
    r"|0{3}[0-9a-f]+"  # a count
    r"|(?=.*\d)(?=.*[a-f])[0-9a-f]{8}(-?[0-9a-f]{4,})*",  # a digest, or a UUID
    re.IGNORECASE,
)
_BIDS_SUBJECT = re.compile(r"(sub-[A-Za-z0-9]+)_")
_NOT_IN_NAMES = re.compile(r"[^\w-]+")
_LONGEST_PART = 40
_LONGEST_NAME = 200  # bytes; file systems take 255, with _probabilities.nii.gz and the like
_DIGITS = 8


@dataclass(frozen=True)
class FoundCase:
    """A volume in a folder."""

    image: str  # path relative to the folder, with forward slashes
    label: str  # path of its label, empty without one
    patient: str  # its patient
    split: str = ""  # its list, if the folder determines one
    info: Mapping[str, str] = field(default_factory=dict)  # further information from the folder
    more_channels: tuple[str, ...] = ()  # paths of the second and later channels, if in separate files

    @classmethod
    def of(cls, root: Path, images: Sequence[Path], label: Path | None, patient: str, **more: Any) -> FoundCase:
        """The case of some files below ``root``, one per channel."""
        image, *others = (path.relative_to(root).as_posix() for path in images)
        return cls(
            image, label.relative_to(root).as_posix() if label else "", patient, more_channels=tuple(others), **more
        )

    def below(self, part: str) -> FoundCase:
        """The same case with paths relative to the parent of the folder ``part``."""
        return replace(
            self,
            image=f"{part}/{self.image}",
            label=f"{part}/{self.label}" if self.label else "",
            more_channels=tuple(f"{part}/{path}" for path in self.more_channels),
        )


def patient_of(name: str, pattern: str | None) -> str:
    """The first matching group of the pattern in a case's name, or the whole match.

    Without a pattern it is the name itself, or ``sub-01`` of BIDS's ``sub-01_ses-1_T1w``, whose subjects are patients.
    DataError: the pattern is not a regular expression, or does not match.
    """
    if pattern is None:
        subject = _BIDS_SUBJECT.match(name)
        return subject[1] if subject else name
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise DataError(f'--patient-pattern "{pattern}": expected a regular expression: {error}.') from error
    if match is None:
        raise DataError(f'--patient-pattern "{pattern}": expected to match every case name, found none in {name}.')
    return next((group for group in match.groups() if group), match[0])


def stated_patient(value: object) -> str | None:
    """A patient as a list states it, text or a whole number, without spaces around; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    # accents in one normal form: two spellings of one name are the same patient
    return unicodedata.normalize("NFC", str(value)).strip()


def case_stem(path: str) -> str:
    """Return the file name without ``.nii.gz``, ``.nii`` or another format's suffix; other dots are its own."""
    # FOLDER#UID names one DICOM series of a folder
    name = PurePath(path).name.replace("#", "_").replace("&", "_")
    # accents in one normal form, since macOS uses another; invalid bytes are replaced
    name = _SURROGATE.sub("_", unicodedata.normalize("NFC", name))
    return _SUFFIX.sub("", name) or name


def unique_case_ids(paths: Sequence[str]) -> list[str]:
    """Name each image by its stem, preceded by as many parent folders as needed to tell images apart.

    Parents do not tell files of one folder apart: ``c.nii`` and ``c.nii.gz`` are ``c_nii`` and ``c_nii_gz``. Channels
    in separate files are named by the common beginning of their names, ``x`` for ``x_0000`` and ``x_0001``, or by their
    folder. A path that occurs twice (a mistake that the checks report) gets a number. A name of more than 200 bytes,
    which with its endings no file system would take, is cut and ends in a digest of the whole.
    """
    distinct = list(dict.fromkeys(paths))
    names = dict(zip(distinct, _names_with_parents(distinct), strict=True))
    return _number_repeats([_cut(names[path]) for path in paths])


def _cut(name: str) -> str:
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]
    return f"{name.encode()[: _LONGEST_NAME - _DIGITS - 1].decode(errors='ignore')}_{digest}"


def _names_with_parents(paths: list[str]) -> list[str]:
    places = _with_endings(paths)
    parts = list(dict.fromkeys(places))  # what no parent tells apart must not get all of them
    depths = [1] * len(parts)
    while True:
        names = ["_".join(part[-depth:]) for part, depth in zip(parts, depths, strict=True)]
        counts = Counter(names)
        deeper = [
            counts[name] > 1 and depth < len(part) for name, depth, part in zip(names, depths, parts, strict=True)
        ]
        if not any(deeper):
            found = dict(zip(parts, names, strict=True))
            return [found[place] for place in places]
        depths = [depth + more for depth, more in zip(depths, deeper, strict=True)]


def _with_endings(paths: list[str]) -> list[tuple[str, ...]]:
    """The parts of each path; where others have the same ones, the name is with its format's suffix."""
    parts = [_parts(path) for path in paths]
    counts = Counter(map(tuple, parts))
    return [
        (*part[:-1], part[-1] + _ending(path)) if counts[tuple(part)] > 1 else tuple(part)
        for path, part in zip(paths, parts, strict=True)
    ]


def _ending(path: str) -> str:
    suffix = _SUFFIX.search(channel_paths(path)[0])
    return suffix[0].replace(".", "_") if suffix else ""


def _parts(path: str) -> list[str]:
    """The folders that lead to a volume, and its name."""
    channels = [PurePath(channel) for channel in channel_paths(path)]
    folder = channels[0].parent
    folders = [part for part in folder.parts if part != folder.anchor]
    if len(channels) == 1:
        return [*folders, case_stem(path)]
    # part by part, so that t1 and t1ce have no common beginning
    parts = zip(*(_SEPARATORS.split(case_stem(channel.name)) for channel in channels), strict=False)
    name = "".join(part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts)).strip("_-. ")
    if name or not folders or any(channel.parent != folder for channel in channels):
        return [*folders, name or case_stem(channels[0].name)]
    return folders


def _number_repeats(names: list[str]) -> list[str]:
    taken, unique = set(names), list[str]()
    seen: set[str] = set()
    for name in names:
        candidate, number = name, 2
        while candidate in seen or (candidate != name and candidate in taken):
            candidate, number = f"{name}_{number}", number + 1
        seen.add(candidate)
        unique.append(candidate)
    return unique


def naming_paths(paths: Sequence[str]) -> list[str]:
    """For each volume, a path whose last part is the name of its case.

    A volume that is not a DICOM folder, or is the only series of a folder with a meaningful name, keeps its name. Other
    series are named by such a folder or by PatientID, followed by those attributes that differ among the series of that
    folder or patient: PatientID, StudyDate, StudyDescription, SeriesNumber, SeriesDescription. :func:`unique_case_ids`
    does the rest.
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
    """Series that their folder's name does not identify, and their labels."""
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
    """The labels of each path that are not the same for all paths."""
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
