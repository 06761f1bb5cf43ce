"""Patients that weights have learnt from, recorded so that an evaluation on one of them can be told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vqseg_bundle.common import read_json
from vqseg_bundle.data import file_list

__all__ = ["learnt_patients", "warn_of_learnt"]

_RECORD, _KEY = "run.json", "learnt_from"


def learnt_patients(cases: Iterable[Mapping[str, str]], *earlier: str | Path | None) -> list[str]:
    """Marks of the patients of training cases, and of those that the weights to begin with have learnt from.

    Args:
        cases: labelled and unlabelled ones.
        earlier: folders of the trainings that these weights come from; None is none.

    Returns:
        The first 16 hexadecimal digits of the SHA-256 of each patient's name, which the record shall not show; sorted.
    """
    marks = {_mark(case["patient"]) for case in cases}
    return sorted(marks.union(*(_recorded(folder) for folder in earlier if folder is not None)))


def warn_of_learnt(cases: Sequence[Mapping[str, str]], weights: str | Path) -> list[str]:
    """A warning if some patients of an evaluation have the names of those that the weights have learnt from.

    Args:
        cases: to evaluate on.
        weights: their file, with the training's record beside it; weights without one give no warning.
    """
    patients = sorted({case["patient"] for case in cases})
    recorded = _recorded(Path(weights).parent)
    known = [patient for patient in patients if _mark(patient) in recorded]
    if not known:
        return []
    return [
        f"{len(known)} of {len(patients)} patients have names of those that {weights} has learnt from: "
        f"{file_list(known)}. If they are the same, the figures do not tell how new patients are segmented: make the "
        "lists before the training."
    ]


def _mark(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()[:16]


def _recorded(folder: str | Path) -> set[str]:
    try:
        found = read_json(Path(folder) / _RECORD).get(_KEY, [])
    except (OSError, ValueError, AttributeError):  # no record, or a damaged one
        return set()
    return {mark for mark in found if isinstance(mark, str)} if isinstance(found, list) else set()
