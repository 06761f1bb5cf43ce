"""Lists of patients in files: fixed splits, patients chosen for labelling, and the datalist that a new one replaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqseg_bundle.common import read_json

from ..errors import DataError, some
from ..layouts.folder_layouts import FoundClasses
from ..layouts.found_case import stated_patient
from .datalist import DATALIST_SPLITS, load_datalist
from .datalist_entry import kind_of

__all__ = ["KeptLists", "LabeledFile", "SplitFile", "read_kept_lists", "read_labeled_file", "read_split_file"]

HELD_OUT = ("validation", "test")

_LABELED_PREFIX = "labeled_"
_FORM = 'expected {"training": [patient, ...], "validation": [patient, ...]}'


@dataclass(frozen=True)
class SplitFile:
    """A fixed split by patient, such as UA-MT, UniMatch, BCP and VQ-Seg use for ACDC.

    ``held_out`` is its list ``validation``, ``labeled`` its longest ``labeled_...`` list, in order of use.
    """

    path: str
    training: list[str]
    held_out: list[str]
    labeled: list[str]


@dataclass(frozen=True)
class KeptLists:
    """What a new datalist keeps of the one that it replaces, or that ``vqseg choose`` chose from.

    Attributes:
        source: the file.
        held_out: its "validation" and "test" patients.
        learnt: its training and unlabelled patients.
        classes: its classes.
    """

    source: str
    held_out: dict[str, list[str]]
    learnt: list[str]
    classes: FoundClasses


@dataclass(frozen=True)
class LabeledFile:
    """The labelled patients of the training, by name, such as ``vqseg choose`` found them.

    ``kept`` is of the datalist that it chose from, None if there was none.
    """

    path: str
    patients: list[str]
    kept: KeptLists | None = None


def read_split_file(path: Path) -> SplitFile:
    """Read ``{"training": [...], "validation": [...], "labeled_5_percent": [...], ...}``; other keys are ignored.

    Patients may be whole numbers, which become text.

    Raises:
        DataError: the file is missing or not JSON, has another form, or its lists are inconsistent.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"split file {path}: expected a JSON file, but it cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(
            f"split file {path}: {_FORM}, found {kind_of(content)}; of other files, such as nnU-Net's "
            "splits_final.json, write one."
        )
    lists = {key: _patients(value, key, path) for key, value in content.items() if _is_read(key, value)}
    missing = [key for key in ("training", "validation") if key not in lists]
    if missing:
        raise DataError(f'split file {path}: expected lists "training" and "validation", found no "{missing[0]}".')
    labeled: list[str] = max((v for k, v in lists.items() if k.startswith(_LABELED_PREFIX)), key=len, default=[])
    shared = sorted(set(lists["training"]) & set(lists["validation"]))
    if shared:
        raise DataError(f'split file {path}: in both "training" and "validation": {some(shared)}.')
    stray = sorted(set(labeled) - set(lists["training"]))
    if stray:
        raise DataError(f'split file {path}: labelled patients that are not in "training": {some(stray)}.')
    return SplitFile(str(path), lists["training"], lists["validation"], labeled)


def _is_read(key: str, value: object) -> bool:
    return isinstance(value, list) and (key in ("training", "validation") or key.startswith(_LABELED_PREFIX))


def _patients(names: Sequence[object], key: str, path: Path) -> list[str]:
    patients = [stated_patient(name) for name in names]
    wrong = [repr(name) for name, patient in zip(names, patients, strict=True) if not patient]
    if wrong:
        raise DataError(
            f'split file {path}: key "{key}": expected names of patients, found {some(wrong)}; correct the list.'
        )
    return [patient for patient in patients if patient]


def read_labeled_file(path: Path) -> LabeledFile:
    """Read ``{"chosen": [...], "labeled": [...]}``, patients to label and those labelled before; both are meant.

    Raises:
        DataError: the file is missing or not JSON, names no patients, or has a list of another form.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"--labeled-file {path}: expected a JSON file, but it cannot be read: {error}.") from error
    lists = [content.get(key, []) for key in ("chosen", "labeled")] if isinstance(content, dict) else []
    if not any(lists) or not all(map(_are_names, lists)):
        raise DataError(
            f'--labeled-file {path}: expected the lists of patients "chosen" and "labeled" of vqseg choose.'
        )
    patients = list(dict.fromkeys(name for names in lists for name in names))
    return LabeledFile(str(path), patients, _kept_of_choice(content, path))


def _kept_of_choice(content: Mapping[str, Any], path: Path) -> KeptLists | None:
    # of choices before 0.12.1, and of those without a datalist, there is none
    held_out, names, values = (
        content.get("held_out") or {},
        content.get("labels") or [],
        content.get("label_values") or [],
    )
    lists: list[Any] = [held_out.get(split, []) for split in HELD_OUT] if isinstance(held_out, dict) else [None]
    whole = isinstance(values, list) and all(isinstance(value, int) for value in values)
    if not (all(map(_are_names, [*lists, names])) and whole):
        raise DataError(
            f'--labeled-file {path}: expected "held_out" with lists of patients under "validation" and "test", a list '
            'of names under "labels" and one of whole numbers under "label_values", as vqseg choose writes them.'
        )
    if not any(lists) and not names:
        return None
    return KeptLists(str(path), dict(zip(HELD_OUT, lists, strict=True)), [], FoundClasses(tuple(names), tuple(values)))


def _are_names(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def read_kept_lists(datalist: Path, dataset_dir: Path) -> KeptLists:
    """The lists of a datalist that is about to be replaced.

    Raises:
        DataError: the file is no datalist.
    """
    cohort = load_datalist(datalist, dataset_dir, allow_outside=True)
    lists = {split: [case["patient"] for case in cases] for split, cases in cohort.splits().items()}
    learnt = [patient for split in DATALIST_SPLITS if split not in HELD_OUT for patient in lists[split]]
    classes = FoundClasses(tuple(cohort.indices.values()), tuple(cohort.label_values.values()))
    held_out = {split: sorted(set(lists[split])) for split in HELD_OUT}
    return KeptLists(str(datalist), held_out, sorted(set(learnt)), classes)
