"""Find the cases of a folder in any known layout, and the classes of its labels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vqseg_bundle.common import relative_path_note

from ..errors import DataError, some
from ..formats.class_names import common_class_names, misplaced_names, read_class_names
from ..formats.table import find_format
from ..formats.volume_io import read_label_values
from .beside import find_beside, find_patient_folders
from .channel_files import sequences_of_files
from .dataset_json import find_dataset_json, read_channel_names, read_label_names
from .dicom_patients import join_dicom_patients
from .found_case import FoundCase, patient_of
from .named_folders import find_acdc, find_brats, find_split_folders
from .pairs import find_pairs, pair_folders
from .volume_folder import list_volumes

__all__ = [
    "FoundCase",
    "FoundClasses",
    "find_cases",
    "find_channel_names",
    "find_classes",
    "find_misplaced_names",
    "find_scans",
]

_MOST_VALUES = 256  # of labels with gaps; an image has more
_MOST_SHOWN = 10


def find_cases(dataset_dir: Path, patient_pattern: str | None = None) -> list[FoundCase]:
    """Find images, labels and patients, sorted by path.

    Args:
        dataset_dir: folder in one of the layouts; a ``dataset.json`` takes precedence.
        patient_pattern: regular expression that finds the patient (its first matching group, or the whole match) in a
            case's name; None: each case is one patient, in ACDC's layout each folder, in BIDS's names each subject, and
            DICOM images of one PatientID are of one.

    Raises:
        DataError: the folder has none of the layouts, a label lacks its image, a case lacks a channel, or the pattern
            does not match.
    """
    cases = _find_known(dataset_dir, patient_pattern)
    if not cases:
        entries = sorted(dataset_dir.iterdir())
        names = some([f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]) or "nothing"
        raise DataError(
            f"dataset_dir {dataset_dir}: expected images/ and labels/, imagesTr/ and labelsTr/, labeled/ and "
            "unlabeled/, train/ and test/, train-label/ and train-unlabel/, ACDC's "
            "patientNNN/patientNNN_frameNN.nii.gz, BraTS's PATIENT/PATIENT_flair.nii.gz, x.nii.gz with x_seg.nii.gz "
            f"beside it, or a folder a patient with an image and a label; found {names}. Name the folder that holds "
            "them, rename folders so, or write a datalist by hand: docs/README.md."
        )
    return cases if patient_pattern else join_dicom_patients(dataset_dir, cases)


def find_scans(dataset_dir: Path, patient_pattern: str | None = None) -> list[FoundCase]:
    """:func:`find_cases`, or, of a folder in none of the layouts, all volumes, each a patient's without a label."""
    root = dataset_dir.absolute()
    cases = _find_known(dataset_dir, patient_pattern) or [
        FoundCase(Path(case["image"]).relative_to(root).as_posix(), "", patient_of(case["case"], patient_pattern))
        for case in list_volumes(dataset_dir)
    ]
    return cases if patient_pattern else join_dicom_patients(dataset_dir, cases)


def _find_known(dataset_dir: Path, patient_pattern: str | None) -> list[FoundCase]:
    """The cases of a folder in one of the layouts, otherwise none."""
    if not dataset_dir.is_dir():
        note = relative_path_note(dataset_dir)
        raise DataError(f"dataset_dir {dataset_dir}: expected a folder, found no such folder.{note}")
    pair = pair_folders(dataset_dir)
    cases = find_dataset_json(dataset_dir, patient_pattern)
    cases = cases or (find_pairs(dataset_dir, *pair, patient_pattern) if pair else [])
    # first layouts known by names, last those known by location
    cases = cases or find_acdc(dataset_dir) or find_brats(dataset_dir, patient_pattern)
    for find in (find_split_folders, find_beside, find_patient_folders):
        cases = cases or find(dataset_dir, patient_pattern)
    for path in (dataset_dir / name for case in cases for name in (case.image, *case.more_channels, case.label)):
        if path.is_symlink() and not path.exists():
            raise DataError(
                f"{path}: expected a file, found a link that leads nowhere ({path.readlink()}); put the file there, "
                "or take the link out."
            )
    return cases


@dataclass(frozen=True)
class FoundClasses:
    """The classes of a folder's labels.

    Args:
        names: by class index, background first.
        values: the classes' values in label files; empty if these are the indices.
    """

    names: tuple[str, ...]
    values: tuple[int, ...] = ()


def find_classes(dataset_dir: Path, cases: Sequence[FoundCase], names: Sequence[str] = ()) -> FoundClasses:
    """The classes by the names given, those of ``dataset.json`` or of 3D Slicer's segments, or by label values.

    Without names they are ``background``, ``label_1``, ... If the labels' values are not 0, 1, 2, ..., they are
    assigned to the classes in ascending order.

    Raises:
        DataError: no case has a label and no name is known; values are negative, not whole, or not as many as the
            names; or one value has different names in 3D Slicer's files.
    """
    # importing ITK changes the working directory for a moment, in which threads read
    paths = [str(dataset_dir.absolute() / case.label) for case in cases if case.label]
    named = {} if names else read_label_names(dataset_dir)
    segments = common_class_names(paths)
    if names or named:
        segments = {}
    named = named or ({0: "background", **dict(sorted(segments.items()))} if segments else {})
    if len(set(named.values())) > 1:
        plain = list(named) == list(range(len(named)))
        return FoundClasses(tuple(named.values()), () if plain else tuple(named))
    if not paths and not names:
        raise DataError(
            f"dataset_dir {dataset_dir}: expected at least one label, found none; put labels into labels/, or name the "
            'classes with --labels "background,name,...".'
        )
    indices, values = _label_values(paths, accept_unreadable=bool(names))
    count = len(names) or max(len(indices), 2)
    if indices <= {float(index) for index in range(count)}:
        return FoundClasses(tuple(names or ["background", *(f"label_{index}" for index in range(1, count))]))
    shown = ", ".join(f"{value:g}" for value in sorted(values)[:_MOST_SHOWN])
    if min(values) < 0 or not all(value.is_integer() for value in values) or len(values) > _MOST_VALUES:
        raise DataError(
            f"dataset_dir {dataset_dir}: expected labels of whole numbers from 0 on, a value for each class, found "
            f"{shown}; correct the labels."
        )
    if names and len(names) != len(values):
        raise DataError(
            f"--labels: {len(names)} names, but labels hold {len(values)} values ({shown}); name the class of each "
            'value in rising order, or say which values the classes have with --label-values "0,1,...".'
        )
    ordered = tuple(sorted(int(value) for value in values))
    return FoundClasses(tuple(names or ["background", *(f"label_{value}" for value in ordered[1:])]), ordered)


def find_misplaced_names(
    dataset_dir: Path, cases: Sequence[FoundCase], classes: FoundClasses
) -> dict[str, dict[str, tuple[int, int]]]:
    """Labels, by their relative paths, whose own names give a class another value: name to its value here and there.

    Args:
        dataset_dir: the folder.
        cases: the cases found in it.
        classes: what their labels are taken for.
    """
    expected = dict(zip(classes.values or range(len(classes.names)), classes.names, strict=True))
    labels = sorted({case.label for case in cases if case.label})
    found = {label: misplaced_names(read_class_names(str(dataset_dir / label)), expected) for label in labels}
    return {label: names for label, names in found.items() if names}


def find_channel_names(dataset_dir: Path, cases: Sequence[FoundCase]) -> list[str]:
    """Names of channels in separate files: BraTS's, or those in ``dataset.json``; empty if unknown."""
    several = [(case.image, *case.more_channels) for case in cases if case.more_channels]
    found = set(map(sequences_of_files, several))
    if len(found) == 1 and found != {()}:
        return list(found.pop())
    return read_channel_names(dataset_dir) if several else []


def _label_values(paths: Sequence[str], accept_unreadable: bool) -> tuple[set[float], set[float]]:
    """All values as class indices, and as stored: 255 in a picture's mask of 0 and 255 is class 1."""
    indices, values = {0.0}, {0.0}
    with ThreadPoolExecutor(2) as pool:
        read = partial(_stored_values, accept_unreadable=accept_unreadable)
        bar = tqdm(pool.map(read, paths), "reading labels", len(paths), unit="file", disable=None)
        for path, stored in zip(paths, bar, strict=True):
            values |= stored
            known = find_format(path)
            is_mask = known is not None and known.masks_of_255 and {255.0} <= stored <= {0.0, 255.0}
            indices |= {1.0} if is_mask else stored
    return indices, values


def _stored_values(path: str, accept_unreadable: bool) -> set[float]:
    try:
        return {float(value) for value in np.unique(read_label_values(path).T)}
    except DataError:
        if accept_unreadable:  # the data check names it
            return set()
        raise
