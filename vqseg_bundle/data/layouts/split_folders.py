"""Folders that determine the list of their cases.

``labeled/`` and ``unlabeled/`` say which cases are labelled. ``train/`` and ``test/``, with or without ``val/``
(``valid/``, ``validation/``), fix the test and validation lists; in each, images and labels are in a pair of folders,
side by side, or in a folder per patient. The published VQ-Seg code's ``train-label/``, ``train-unlabel/``, ``val/`` and
``test/`` fix every case's list; each has ``image/`` and ``mask/`` (or another pair of folders), and masks in
``unlabeled/`` and ``train-unlabel/`` are not read.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..errors import DataError, some
from .found_case import FoundCase
from .pairs import find_beside, find_pairs, find_patient_folders, pair_folders

__all__ = ["find_split_folders"]

_UNLABELED = "unlabeled"
_PUBLISHED = {"train-label": "training", "train-unlabel": _UNLABELED, "val": "validation", "test": "test"}
_PARTS = {
    "train": "",
    "training": "",
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_NEED_LABELS = ("training", "validation")
_ACDC_SLICE = re.compile(r"^(patient\d+)_")


def find_split_folders(root: Path, patient_pattern: str | None) -> list[FoundCase]:
    """Cases in the order of the folders; empty without any of these folders.

    Slices of ACDC (``patient001_...``) belong to that patient; other cases are patients of their own unless the pattern
    says more. DataError: no images, a case of ``train-label/`` or ``val/`` without a mask, or as for
    :func:`find_pairs`.
    """
    if (root / "train-label").is_dir():
        found = {
            split: _find(root, part, patient_pattern) for part, split in _PUBLISHED.items() if (root / part).is_dir()
        }
        return [_fixed(root, case, split) for split, cases in found.items() for case in cases]
    if (root / "labeled").is_dir():
        cases = _find(root, "labeled", patient_pattern)
        bare = _find(root, _UNLABELED, patient_pattern) if (root / _UNLABELED).is_dir() else []
        return _told_apart(cases, [replace(case, label="") for case in bare])
    return _find_parts(root, patient_pattern)


def _find_parts(root: Path, pattern: str | None) -> list[FoundCase]:
    there = {entry.name.casefold(): entry.name for entry in sorted(root.iterdir()) if entry.is_dir()}
    parts = [(there[name], split) for name, split in _PARTS.items() if name in there]
    if not any(split == "" for _, split in parts):
        return []
    found: list[FoundCase] = []
    for part, split in parts:
        pair = pair_folders(root / part)
        cases = find_pairs(root / part, *pair, pattern) if pair else find_beside(root / part, pattern)
        cases = cases or find_patient_folders(root / part, pattern)
        if not cases and split == "":
            return []
        found += [_of_part(case.below(part), split) for case in cases]
    return found


def _of_part(case: FoundCase, split: str) -> FoundCase:
    """Validation and test cases need a label; without one, a case is unlabelled."""
    return replace(case, split=split if case.label or not split else _UNLABELED)


def _find(root: Path, part: str, pattern: str | None) -> list[FoundCase]:
    pair = pair_folders(root / part)
    if pair is None:
        raise DataError(f"{root / part}: expected a folder images/ or image/ in it, found none.")
    return [case.below(part) for case in find_pairs(root / part, *pair, pattern)]


def _fixed(root: Path, case: FoundCase, split: str) -> FoundCase:
    if split in _NEED_LABELS and not case.label:
        raise DataError(f"{root / case.image}: expected a mask of the same name beside {split} images, found none.")
    slice_of = _ACDC_SLICE.match(case.patient)
    return replace(
        case,
        split=split,
        label="" if split == _UNLABELED else case.label,
        patient=slice_of[1] if slice_of else case.patient,
    )


def _told_apart(labeled: list[FoundCase], unlabeled: list[FoundCase]) -> list[FoundCase]:
    """Refuse names in both folders: they may be the same image, or a patient in two lists."""
    twice = sorted({case.patient for case in labeled} & {case.patient for case in unlabeled})
    if twice:
        raise DataError(
            f"labeled/ and unlabeled/: the same case or patient in both: {some(twice)}; keep it in one of them, or "
            "rename different ones."
        )
    return labeled + unlabeled
