"""Divide patients into training, unlabelled, validation and test, none of them in two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vqseg_bundle.common import read_json

from ..errors import DataError, some
from ..layouts.found_case import stated_patient
from .datalist_entry import kind_of

__all__ = ["LabeledFile", "SplitFile", "SplitRequest", "read_labeled_file", "read_split_file", "split_patients"]

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
class LabeledFile:
    """The labelled patients of the training, by name, such as ``vqseg choose`` found them.

    ``held_out`` are the validation and test patients of the datalist that it chose from, ``labels`` and
    ``label_values`` that one's classes; all are empty if there was none.
    """

    path: str
    patients: list[str]
    held_out: dict[str, list[str]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    label_values: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class SplitRequest:
    """Numbers of patients per split; count and share of a split exclude each other, and shares are rounded down."""

    labeled_count: int | None = None  # labelled training patients; without a share, all with labels
    labeled_share: float | None = None  # as a share of all training patients
    labeled_file: LabeledFile | None = None  # these patients in place of a number
    validation_count: int | None = None  # validation patients
    validation_share: float | None = None  # as a share of all patients
    test_count: int | None = None  # test patients
    test_share: float | None = None  # as a share of all patients
    tuning_count: int = 0  # drawn from the unlabelled ones with labels, for validation
    seed: int = 0  # seed of all draws
    split_file: SplitFile | None = None  # a fixed split instead of drawn validation and test patients
    split_file_validation_as: str = "test"  # the list of its held-out patients, ``"test"`` or ``"validation"``


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
        DataError: the file is missing or not JSON, or names no patients.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"--labeled-file {path}: expected a JSON file, but it cannot be read: {error}.") from error
    lists = [content.get(key, []) for key in ("chosen", "labeled")] if isinstance(content, dict) else []
    if not any(lists) or not all(isinstance(names, list) and all(isinstance(n, str) for n in names) for names in lists):
        raise DataError(
            f'--labeled-file {path}: expected the lists of patients "chosen" and "labeled" of vqseg choose.'
        )
    patients = list(dict.fromkeys(name for names in lists for name in names))
    apart = content.get("held_out") or {}  # of choices before 0.12.1 there is none
    held_out = {split: list(apart.get(split, [])) for split in ("validation", "test")}
    return LabeledFile(str(path), patients, held_out, content.get("labels", []), content.get("label_values", []))


def split_patients(patients: Sequence[str], with_labels: Sequence[str], request: SplitRequest) -> dict[str, list[str]]:
    """Assign each patient to at most one of ``training``, ``unlabeled``, ``validation`` and ``test``.

    With the same seed, the validation and test patients do not depend on the number of labelled ones, and a smaller set
    of labelled patients is part of a larger one. Patients that a split file does not list are left out.

    Raises:
        DataError: a share gives zero patients, there are fewer than requested, or options exclude each other.
    """
    _refuse_conflicts(request)
    labeled = sorted(set(with_labels))
    split = request.split_file
    kept = request.labeled_file.held_out if request.labeled_file else {}
    if split is not None:
        held_out = _fixed(patients, split, request)
    elif any(kept.values()):
        held_out = {name: [patient for patient in names if patient in set(labeled)] for name, names in kept.items()}
    else:
        held_out = _draw_held_out(labeled, len(patients), request)
    taken = {patient for cases in held_out.values() for patient in cases}
    pool = [patient for patient in sorted(split.training if split else patients) if patient not in taken]
    training = _training(pool, labeled, request)
    unlabeled = [patient for patient in pool if patient not in set(training)]
    tuning = _draw_tuning([patient for patient in unlabeled if patient in set(labeled)], request)
    return {
        "training": training,
        "unlabeled": [patient for patient in unlabeled if patient not in set(tuning)],
        "validation": held_out["validation"] + tuning,
        "test": held_out["test"],
    }


def _refuse_conflicts(request: SplitRequest) -> None:
    sizes = (request.validation_count, request.validation_share, request.test_count, request.test_share)
    if request.split_file and any(size is not None for size in sizes):
        raise DataError(
            "--validation-count, --validation-share, --test-count and --test-share: expected none of them beside "
            "--split-file, which fixes the held-out patients; use --tuning-count to have a validation list besides."
        )
    if request.labeled_file and any(request.labeled_file.held_out.values()) and any(size is not None for size in sizes):
        raise DataError(
            "--validation-count, --validation-share, --test-count and --test-share: expected none of them beside "
            f"--labeled-file {request.labeled_file.path}, which was chosen from a datalist with held-out patients; "
            "these stay held out."
        )
    fixed_validation = request.split_file is not None and request.split_file_validation_as == "validation"
    if request.tuning_count and (fixed_validation or any(size is not None for size in sizes[:2])):
        raise DataError("--tuning-count: it makes the validation list, which another option makes, too; give one.")


def _training(pool: list[str], labeled: list[str], request: SplitRequest) -> list[str]:
    if request.labeled_file:
        return _named(pool, labeled, request.labeled_file)
    ranked = _rank(pool, labeled, request)
    count = _count("labeled", request.labeled_count, request.labeled_share, len(pool), "training patients")
    return ranked if count is None else _take("labeled", ranked, count)


def _named(pool: list[str], labeled: list[str], file: LabeledFile) -> list[str]:
    absent = sorted(set(file.patients) - set(pool))
    if absent:
        raise DataError(
            f"--labeled-file {file.path}: expected patients of the folder that are not held out, found {some(absent)}; "
            "check the folder, and --patient-pattern."
        )
    bare = [patient for patient in file.patients if patient not in set(labeled)]
    if bare:
        raise DataError(
            f"--labeled-file {file.path}: expected a label for each of its {len(file.patients)} patients, found none "
            f"for {some(bare)}; draw these first."
        )
    return sorted(file.patients)


def _draw_held_out(labeled: list[str], total: int, request: SplitRequest) -> dict[str, list[str]]:
    named = set(request.labeled_file.patients) if request.labeled_file else set()
    # drawn from all, so that a choice made without the held-out patients leaves them as they were
    order = [patient for patient in _shuffled(labeled, request.seed, stream=0) if patient not in named]
    test_count = _count("test", request.test_count, request.test_share, total, "patients") or 0
    test = _take("test", order, test_count)
    count = _count("validation", request.validation_count, request.validation_share, total, "patients") or 0
    return {"test": test, "validation": _take("validation", order[test_count:], count)}


def _fixed(patients: Sequence[str], split: SplitFile, request: SplitRequest) -> dict[str, list[str]]:
    absent = sorted({*split.training, *split.held_out} - set(patients))
    if absent:
        raise DataError(
            f"split file {split.path}: it lists patients that the folder does not have: {some(absent)}; check "
            "--dataset-dir."
        )
    name = request.split_file_validation_as
    if name not in ("test", "validation"):
        raise DataError(f'--split-file-validation-as: expected "test" or "validation", found "{name}".')
    return {"test": [], "validation": [], name: sorted(split.held_out)}


def _rank(pool: list[str], labeled: list[str], request: SplitRequest) -> list[str]:
    """The pool's patients with labels, in the order in which labels are used; a split file's list comes first."""
    first = request.split_file.labeled if request.split_file else []
    bare = [patient for patient in first if patient not in set(labeled)]
    if bare:
        raise DataError(f"split file: patients of its labelled list that have no label file: {some(bare)}.")
    rest = [patient for patient in pool if patient in set(labeled) and patient not in set(first)]
    return [*first, *_shuffled(rest, request.seed, stream=1)]


def _draw_tuning(candidates: list[str], request: SplitRequest) -> list[str]:
    return _take("tuning", _shuffled(candidates, request.seed, stream=2), request.tuning_count)


def _count(name: str, count: int | None, share: float | None, total: int, of: str) -> int | None:
    if share is None:
        return count
    if not 0 < share <= 1:
        raise DataError(f"--{name}-share: expected more than 0 and at most 1, found {share:g}.")
    patients = int(share * total + 1e-9)
    if patients == 0:
        raise DataError(
            f"--{name}-share {share:g} of {total} {of} gives zero patients; expected at least one: raise it to "
            f"{1 / max(total, 1):.3g} or more, or use --{name}-count."
        )
    return patients


def _take(name: str, patients: list[str], count: int) -> list[str]:
    if not 0 <= count <= len(patients):
        raise DataError(f"--{name}-count: expected 0 to {len(patients)} (patients with labels left), found {count}.")
    return sorted(patients[:count])


def _shuffled(patients: list[str], seed: int, stream: int) -> list[str]:
    """A draw that does not depend on the sizes of other draws or the folder's order."""
    order = np.random.default_rng([seed, stream]).permutation(len(patients))
    return [sorted(patients)[index] for index in order]
