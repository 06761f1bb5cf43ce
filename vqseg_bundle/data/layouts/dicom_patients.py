"""Patients by what DICOM says of them, since the names of exported folders may not tell."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import some
from ..formats.dicom_slices import first_slice
from ..formats.table import volume_kind
from ..formats.volume_path import parse_volume_path
from .found_case import FoundCase

__all__ = ["join_dicom_patients"]

logger = logging.getLogger(__name__)


def join_dicom_patients(root: Path, cases: Sequence[FoundCase]) -> list[FoundCase]:
    """The cases, of which those with one PatientID are of the first one's patient.

    Otherwise two examinations of a patient, in folders of any names, could be trained on and tested on. Where all have
    the same PatientID, as after a careless anonymisation, it says nothing.

    Args:
        root: folder of the cases.
        cases: with patients by their names.
    """
    known = {case.image: _patient_id(root / case.image) for case in cases}
    named = defaultdict(list)
    for case in cases:
        if known[case.image]:
            named[known[case.image]].append(case.patient)
    if len(named) < 2:
        return list(cases)
    for patients in named.values():
        if len(set(patients)) > 1:
            logger.info("one patient by PatientID: %s", some(sorted(set(patients))))
    return [replace(case, patient=named[known[case.image]][0]) if known[case.image] else case for case in cases]


def _patient_id(image: Path) -> str:
    """Of a DICOM image that says it, otherwise empty."""
    if volume_kind(image) != "dicom":
        return ""
    found = first_slice(parse_volume_path(str(image)).file)
    return found.labels.patient if found else ""
