"""Read a datalist in the format of the Medical Segmentation Decathlon (http://medicaldecathlon.com).

``{"name", "labels": {"0": "background", ...}, "training": [{"image", "label", "patient"?}], "unlabeled", "validation",
"test"}`` with paths relative to the data folder. The Decathlon has no ``unlabeled`` and ``validation`` lists and no
``patient``; its own files, whose ``test`` entries are plain strings, are also read. ``series`` beside an image chooses
one of several DICOM series of a folder by its SeriesInstanceUID. An ``image`` may be a list of paths: its channels in
separate files, in order. ``label_values`` are the classes' values in label files, in order; ``channel_names`` are the
names of the channels, for which BraTS's endings of their files stand in. A last class named "ignore", as in nnU-Net, is
of the voxels that nobody has labelled.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vqseg_bundle.common import read_json, relative_path_note, shell_line

from ..errors import DataError
from ..formats.table import volume_kind
from ..formats.volume_io import IGNORE, check_ignore_last, parse_label_values
from ..formats.volume_path import channel_paths, join_channels, join_volume_path
from ..layouts.channel_files import agreed_channel_names
from ..layouts.found_case import unique_case_ids
from .datalist_entry import kind_of, parse_entry

__all__ = ["DATALIST_SPLITS", "LEARNED_SPLITS", "Cohort", "DataError", "cohort_of_lists", "load_datalist"]

DATALIST_SPLITS = ("training", "unlabeled", "validation", "test")
#: Lists that a network learns from; frames of one patient may be in both.
LEARNED_SPLITS = ("training", "unlabeled")
_OTHER_LISTS = ("labels", "label_values", "channel_names")
_LABELS_EXPECTED = 'expected {"0": "background", "1": name, ...}, keys "0" to "C-1" without gaps, or a list of names'


@dataclass(frozen=True)
class Cohort:
    """The cases of one datalist, by split.

    A case is a dict of strings: ``image`` (absolute path, possibly of one DICOM series or of several channels, see
    :mod:`vqseg_bundle.data.formats.volume_path`), ``label`` (absolute path, if it has one), ``case`` (an id unique in
    the cohort) and ``patient`` (the case id if the datalist gives none).
    """

    name: str
    labels: dict[int, str]  # class index to name; 0 is the background
    training: list[dict[str, str]] = field(default_factory=list)  # with labels
    unlabeled: list[dict[str, str]] = field(default_factory=list)  # without labels; those in the datalist are dropped
    validation: list[dict[str, str]] = field(default_factory=list)  # to choose the model
    test: list[dict[str, str]] = field(default_factory=list)  # to report on, with or without labels
    source: str = ""  # the datalist's path, or the id of the configuration's list
    listed: bool = False  # whether the configuration lists all cases, without a datalist
    label_values: dict[int, int] = field(default_factory=dict)  # class index to value in labels; empty: indices
    channel_names: tuple[str, ...] = ()  # in order; empty: unknown
    sparse: bool = False  # whether labels have one more index than classes, "ignore", where nobody has labelled

    @property
    def indices(self) -> dict[int, str]:
        """Names of all indices in label maps: the classes, and "ignore" where it is used."""
        return {**self.labels, len(self.labels): IGNORE} if self.sparse else self.labels

    @property
    def class_values(self) -> dict[int, int]:
        """Class index to its value in label files and predictions, without that of "ignore"; empty for indices."""
        values = {index: value for index, value in self.label_values.items() if index in self.labels}
        return {} if all(index == value for index, value in values.items()) else values

    @property
    def partly_unlabeled(self) -> list[dict[str, str]]:
        """Images with voxels that have no label: the unlabelled ones, and the training's own if labels are sparse."""
        own = self.training if self.sparse else []
        return [*self.unlabeled, *({key: case[key] for key in case if key != "label"} for case in own)]

    def splits(self) -> dict[str, list[dict[str, str]]]:
        """Return the case lists by their names in the datalist, including empty ones."""
        return {split: getattr(self, split) for split in DATALIST_SPLITS}


def load_datalist(
    datalist: str | Path, dataset_dir: str | Path, accept_uneven: bool = False, allow_outside: bool = False
) -> Cohort:
    """Read a datalist file with paths relative to ``dataset_dir``; no image is opened.

    ``accept_uneven``: DICOM series may have unevenly spaced slices. ``allow_outside``: files may lie outside
    ``dataset_dir``. DataError: a file or folder is missing, or the file is not of the expected form.
    """
    path, root = Path(datalist).expanduser(), Path(dataset_dir).expanduser()
    if not root.is_dir():
        found = "a file." if root.exists() else f"nothing.{relative_path_note(root)}"
        raise DataError(f"dataset_dir {root}: expected a folder, found {found}")
    content = _read_json(path)
    _refuse_unknown_lists(content, path)
    if "training" not in content and "unlabeled" not in content:
        raise DataError(
            f'{path}: key "training" is missing; expected a list of {{"image", "label"}} entries. Of nnU-Net\'s '
            f"dataset.json make a datalist: {shell_line(['vqseg', 'data', str(root)])}"
        )
    cases = _parse_splits(content, str(path), root)
    if not allow_outside:
        _refuse_outside(cases, path, root)
    if accept_uneven:
        _accept_uneven(cases)
    indices = _parse_labels(content.get("labels"), path)
    labels = {index: name for index, name in indices.items() if name != IGNORE}
    return Cohort(
        name=str(content.get("name") or path.stem),
        labels=labels,
        sparse=len(labels) < len(indices),
        source=str(path),
        listed=False,
        label_values=parse_label_values(content.get("label_values"), len(indices), f'{path}: key "label_values"'),
        channel_names=agreed_channel_names(
            _parse_channel_names(content.get("channel_names"), path), _images(cases), str(path)
        ),
        **cases,
    )


def cohort_of_lists(
    lists: Mapping[str, Sequence[Mapping[str, str]]], labels: Mapping[int, str], name: str, source: str
) -> Cohort:
    """A cohort from cases by split, in a datalist's form; other splits are empty.

    Paths may be relative to the working directory; messages name ``source``. DataError: an entry is not a case.
    """
    cases = _parse_splits(lists, source, Path.cwd())
    channel_names = agreed_channel_names((), _images(cases), source)
    return Cohort(
        name,
        dict(labels),
        **cases,
        source=source,
        listed=True,
        label_values={},
        channel_names=channel_names,
        sparse=False,
    )


def _images(cases: Mapping[str, Sequence[Mapping[str, str]]]) -> list[str]:
    return [case["image"] for split in cases.values() for case in split]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"datalist {path}: no such file. Relative paths start at the working directory, {Path.cwd()}; "
            "`vqseg data` builds a datalist from a folder."
        )
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"datalist {path}: expected a JSON file, but it cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(f"datalist {path}: expected a JSON object, found {kind_of(content)}.")
    return content


def _refuse_unknown_lists(content: dict[str, Any], path: Path) -> None:
    """Refuse lists of cases under unknown names, such as ``unlabelled`` or ``val``, which would silently be ignored."""
    for key, value in content.items():
        if key in (*DATALIST_SPLITS, *_OTHER_LISTS) or not isinstance(value, list) or not value:
            continue
        near = difflib.get_close_matches(key, DATALIST_SPLITS, n=1)
        if near or any(_looks_like_case(entry) for entry in value):
            hint = f' Did you mean "{near[0]}"?' if near else ""
            allowed = ", ".join(DATALIST_SPLITS)
            raise DataError(f'{path}: unknown list "{key}"; lists of cases are called {allowed}.{hint}')


def _looks_like_case(entry: object) -> bool:
    return isinstance(entry, dict) or (isinstance(entry, str) and volume_kind(entry) != "")


def _parse_labels(labels: object, path: Path) -> dict[int, str]:
    if labels is None:
        raise DataError(f'{path}: key "labels" is missing; {_LABELS_EXPECTED}.')
    if isinstance(labels, list):
        labels = {str(index): name for index, name in enumerate(labels)}
    if not isinstance(labels, dict):
        raise DataError(f'{path}: key "labels": {_LABELS_EXPECTED}; found {kind_of(labels)}.')
    if len(labels) < 2 or {str(key) for key in labels} != {str(index) for index in range(len(labels))}:
        hint = ' (values of label files that are not their class\'s index go under "label_values")'
        raise DataError(f'{path}: key "labels": {_LABELS_EXPECTED}, two at least; found keys {list(labels)}{hint}.')
    names = {index: labels[str(index)] for index in range(len(labels))}
    for index, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise DataError(f'{path}: key "labels", entry "{index}": expected a name, found {name!r}.')
    check_ignore_last(list(names.values()), f'{path}: key "labels"')
    if len(set(names.values())) < len(names):
        raise DataError(f'{path}: key "labels": expected a different name for each, found {list(names.values())}.')
    return names


def _parse_channel_names(names: object, path: Path) -> tuple[str, ...]:
    if isinstance(names, dict):  # as in nnU-Net's dataset.json
        names = [names.get(str(index)) for index in range(len(names))]
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f'{path}: key "channel_names": expected a list of names, found {names!r}.')
    return tuple(names)


def _parse_splits(lists: Mapping[str, Any], source: str, root: Path) -> dict[str, list[dict[str, str]]]:
    cases = {split: _parse_split(lists.get(split), split, source, root) for split in DATALIST_SPLITS}
    _name_cases(cases)
    return cases


def _parse_split(entries: object, split: str, source: str, root: Path) -> list[dict[str, str]]:
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise DataError(f'{source}: key "{split}": expected a list of cases, found {kind_of(entries)}.')
    return [parse_entry(entry, f'{source}: "{split}" entry {i}', split, root) for i, entry in enumerate(entries)]


def _name_cases(cases: dict[str, list[dict[str, str]]]) -> None:
    flat = [case for split in DATALIST_SPLITS for case in cases[split]]
    for case, name in zip(flat, unique_case_ids([case["image"] for case in flat]), strict=True):
        case["case"] = name
        case.setdefault("patient", name)


def _refuse_outside(cases: Mapping[str, Sequence[Mapping[str, str]]], source: Path, root: Path) -> None:
    """Whoever wrote a datalist must not choose which files are read; links in the folder are its owner's."""
    folder, real = Path(os.path.abspath(root)), os.path.realpath(root)  # noqa: PTH100
    for case in (case for split in cases.values() for case in split):
        for path in [*channel_paths(case["image"]), *([case["label"]] if "label" in case else [])]:
            if not Path(path).is_relative_to(folder) and not Path(os.path.realpath(path)).is_relative_to(real):
                raise DataError(
                    f"{source}: expected files in the dataset's folder, {folder}, found {path}. Name the folder that "
                    "holds them all with dataset_dir, or, if you trust the datalist, give --allow_outside_files true."
                )


def _accept_uneven(cases: dict[str, list[dict[str, str]]]) -> None:
    for case in (case for split in cases.values() for case in split):
        if volume_kind(case["image"]) == "dicom":
            channels = channel_paths(case["image"])
            case["image"] = join_channels(join_volume_path(path, accept_uneven=True) for path in channels)
