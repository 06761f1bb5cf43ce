"""Find the cases of a folder: ``images/`` and ``labels/`` (also as the Decathlon and nnU-Net name them), or ACDC's.

- ``images/x.nii.gz`` with ``labels/x.nii.gz`` where there is one; ``imagesTr`` and ``labelsTr``; ``x_0000.nii.gz`` as
  nnU-Net names the first channel. The case's name is its patient unless a pattern finds the patient in it.
- ``patient001/patient001_frame01.nii.gz`` with ``patient001_frame01_gt.nii.gz``: a folder a patient.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .case_names import case_stem
from .datalist import DataError
from .volume_io import read_voxels

__all__ = ["FoundCase", "find_cases", "find_label_names"]

_FOLDER_PAIRS = (("images", "labels"), ("imagesTr", "labelsTr"))
_ACDC_FRAME = re.compile(r"^patient\d+_frame\d+$")
_CHANNEL = re.compile(r"_(\d{4})$")


@dataclass(frozen=True)
class FoundCase:
    """A volume in a folder.

    Args:
        image: path relative to the folder, with forward slashes.
        label: path of its label, empty where there is none.
        patient: whom it shows.
    """

    image: str
    label: str
    patient: str


def find_cases(dataset_dir: Path, patient_pattern: str | None = None) -> list[FoundCase]:
    """Find images, labels and patients, sorted by path.

    Args:
        dataset_dir: folder in one of the layouts above.
        patient_pattern: regular expression that finds the patient (its first group, or else all of its match) in a
            case's name; ``None``: each case is a patient of its own, or in ACDC's layout its folder.

    Raises:
        DataError: the folder has neither layout, a label lacks its image, channels lie in separate files, or the
            pattern does not match.
    """
    if not dataset_dir.is_dir():
        raise DataError(f"dataset_dir {dataset_dir}: expected a folder, found no such folder.")
    for images, labels in _FOLDER_PAIRS:
        if (dataset_dir / images).is_dir():
            return _find_pairs(dataset_dir, images, labels, patient_pattern)
    cases = _find_acdc(dataset_dir)
    if not cases:
        raise DataError(
            f"dataset_dir {dataset_dir}: expected images/ and labels/, imagesTr/ and labelsTr/, or ACDC's "
            "patientNNN/patientNNN_frameNN.nii.gz; found none of them."
        )
    return cases


def find_label_names(dataset_dir: Path, cases: Sequence[FoundCase]) -> list[str]:
    """Read all labels and name the classes ``background``, ``label_1``, ... up to the greatest value found.

    Raises:
        DataError: no case has a label, or the values are not 0, 1, ... without gaps.
    """
    paths = [str(dataset_dir / case.label) for case in cases if case.label]
    if not paths:
        raise DataError(f"dataset_dir {dataset_dir}: expected at least one label, found none.")
    with ThreadPoolExecutor(2) as pool:
        found = {float(value) for values in pool.map(_values, paths) for value in values}
    count = max(len(found | {0.0}), 2)
    if found | {0.0} != {float(index) for index in range(count)}:
        shown = ", ".join(f"{value:g}" for value in sorted(found)[:10])
        raise DataError(
            f"dataset_dir {dataset_dir}: expected label values 0, 1, 2, ... without gaps, found {shown}; correct the "
            'files, or name the classes with --labels "background,name,...".'
        )
    return ["background", *(f"label_{index}" for index in range(1, count))]


def _values(path: str) -> np.ndarray:
    return np.unique(read_voxels(path).T)


def _find_pairs(root: Path, images: str, labels: str, patient_pattern: str | None) -> list[FoundCase]:
    image_by_name = _volumes(root / images)
    label_by_name = _volumes(root / labels) if (root / labels).is_dir() else {}
    orphans = sorted(set(label_by_name) - set(image_by_name))
    if orphans:
        raise DataError(
            f"{root / labels}: no image in {images}/ of the same name for label {_some(orphans)}; rename them alike."
        )
    if not image_by_name:
        raise DataError(f"{root / images}: expected .nii.gz or .nii volumes, found none.")
    return [
        FoundCase(
            image=f"{images}/{file}",
            label=f"{labels}/{label_by_name[name]}" if name in label_by_name else "",
            patient=_patient(name, patient_pattern),
        )
        for name, file in sorted(image_by_name.items())
    ]


def _volumes(folder: Path) -> dict[str, str]:
    """File names by case name; nnU-Net's channel number is not part of the latter."""
    files: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith((".nii", ".nii.gz")):
            continue
        stem = case_stem(path.name)
        channel = _CHANNEL.search(stem)
        name = stem[: channel.start()] if channel else stem
        if name in files or (channel and int(channel[1]) > 0):
            raise DataError(
                f"{path}: expected one file a case, found a second for case {name}; merge channels that lie in "
                "separate files (_0000, _0001) to one volume."
            )
        files[name] = path.name
    return files


def _patient(name: str, pattern: str | None) -> str:
    if pattern is None:
        return name
    match = re.search(pattern, name)
    if match is None:
        raise DataError(f'--patient-pattern "{pattern}": expected to match every case name, found none in {name}.')
    return match[1] if match.re.groups else match[0]


def _find_acdc(root: Path) -> list[FoundCase]:
    cases = []
    for path in sorted(root.glob("patient*/patient*.nii.gz")):
        if _ACDC_FRAME.match(case_stem(path.name)):
            label = path.with_name(f"{case_stem(path.name)}_gt.nii.gz")
            cases.append(
                FoundCase(
                    image=path.relative_to(root).as_posix(),
                    label=label.relative_to(root).as_posix() if label.is_file() else "",
                    patient=path.parent.name,
                )
            )
    return cases


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
