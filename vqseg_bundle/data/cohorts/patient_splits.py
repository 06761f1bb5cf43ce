"""Divide patients into training, unlabelled, validation and test, none of them in two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError, some
from .patient_files import HELD_OUT, KeptLists, LabeledFile, SplitFile

__all__ = ["SplitRequest", "split_patients"]


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
    kept: KeptLists | None = None  # held-out patients that stay so, as many as are asked for
    split_file: SplitFile | None = None  # a fixed split instead of drawn validation and test patients
    split_file_validation_as: str = "test"  # the list of its held-out patients, ``"test"`` or ``"validation"``


def split_patients(patients: Sequence[str], with_labels: Sequence[str], request: SplitRequest) -> dict[str, list[str]]:
    """Assign each patient to at most one of ``training``, ``unlabeled``, ``validation`` and ``test``.

    With the same seed, the validation and test patients do not depend on the number of labelled ones, and a smaller set
    of labelled patients is part of a larger one. Patients that a split file does not list are left out. Kept held-out
    patients stay in their list: all of them if no number is asked for, or else the first to be drawn.

    Raises:
        DataError: a share gives zero patients, there are fewer than requested, options exclude each other, or kept
            patients are not there or have lost the label that they need.
    """
    _refuse_conflicts(request)
    labeled = sorted(set(with_labels))
    split = request.split_file
    held_out = _fixed(patients, split, request) if split else _hold_out(patients, labeled, request)
    reserved = _kept(request, "validation")[: request.tuning_count]
    taken = {patient for cases in [*held_out.values(), reserved] for patient in cases}
    pool = [patient for patient in sorted(split.training if split else patients) if patient not in taken]
    training = _training(pool, labeled, request)
    unlabeled = [patient for patient in pool if patient not in set(training)]
    tuning = _draw_tuning(reserved, [patient for patient in unlabeled if patient in set(labeled)], request)
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


def _hold_out(patients: Sequence[str], labeled: list[str], request: SplitRequest) -> dict[str, list[str]]:
    _check_kept(patients, labeled, request)
    named = set(request.labeled_file.patients) if request.labeled_file else set()
    # drawn from all, so that a choice made without the held-out patients leaves them as they were
    order = [patient for patient in _shuffled(labeled, request.seed, stream=0) if patient not in named]
    total = len(patients)
    counts = {
        "test": _count("test", request.test_count, request.test_share, total, "patients"),
        "validation": _count("validation", request.validation_count, request.validation_share, total, "patients"),
    }
    found: dict[str, list[str]] = {}
    for name, count in counts.items():
        kept = [] if name == "validation" and request.tuning_count else _kept(request, name)
        apart = {patient for split in HELD_OUT for patient in _kept(request, split)}
        others = sorted(order, key=lambda patient: patient in apart)  # those kept in the other list come last
        left = [p for p in dict.fromkeys([*kept, *others]) if p not in {q for taken in found.values() for q in taken}]
        found[name] = kept if count is None else _take(name, left, count)
    return found


def _kept(request: SplitRequest, split: str) -> list[str]:
    return request.kept.held_out[split] if request.kept and not request.split_file else []


def _check_kept(patients: Sequence[str], labeled: list[str], request: SplitRequest) -> None:
    kept = request.kept
    if kept is None:
        return
    absent = sorted({name for names in kept.held_out.values() for name in names} - set(patients))
    if absent:
        raise DataError(
            f"{kept.source}: its held-out patients stay held out, but the folder does not have {some(absent)}; check "
            "--patient-pattern, or move the file away for a new draw."
        )
    bare = [name for name in kept.held_out["validation"] if name not in set(labeled)]
    if bare:
        raise DataError(
            f"{kept.source}: its validation patients stay so, but {some(bare)} have no label; put the labels back, or "
            "move the file away for a new draw."
        )


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


def _draw_tuning(reserved: list[str], candidates: list[str], request: SplitRequest) -> list[str]:
    return _take("tuning", [*reserved, *_shuffled(candidates, request.seed, stream=2)], request.tuning_count)


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
