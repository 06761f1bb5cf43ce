"""Find the cases of a folder, in the layouts that :mod:`vqseg_bundle.data.layouts` knows, and the classes of labels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .errors import DataError
from .layouts import (
    FoundCase,
    find_acdc,
    find_decathlon,
    find_pairs,
    find_split_folders,
    pair_folders,
    read_decathlon_labels,
)
from .layouts.found_case import some
from .volume_io import read_voxels

__all__ = ["FoundCase", "find_cases", "find_label_names"]


def find_cases(dataset_dir: Path, patient_pattern: str | None = None) -> list[FoundCase]:
    """Find images, labels and patients, sorted by path.

    Args:
        dataset_dir: folder in one of the layouts; a Decathlon task's ``dataset.json`` goes before all.
        patient_pattern: regular expression that finds the patient (its first group that matches, or else all of its
            match) in a case's name; ``None``: each case is a patient of its own, or in ACDC's layout its folder.

    Raises:
        DataError: the folder has none of the layouts, a label lacks its image, channels lie in separate files, or the
            pattern does not match.
    """
    if not dataset_dir.is_dir():
        raise DataError(f"dataset_dir {dataset_dir}: expected a folder, found no such folder.")
    pair = pair_folders(dataset_dir)
    cases = find_decathlon(dataset_dir, patient_pattern)
    cases = cases or (find_pairs(dataset_dir, *pair, patient_pattern) if pair else [])
    cases = cases or find_split_folders(dataset_dir, patient_pattern) or find_acdc(dataset_dir)
    if not cases:
        entries = sorted(dataset_dir.iterdir())
        names = some([f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]) or "nothing"
        raise DataError(
            f"dataset_dir {dataset_dir}: expected images/ and labels/, imagesTr/ and labelsTr/, labeled/ and "
            "unlabeled/, train-label/ and train-unlabel/, or ACDC's patientNNN/patientNNN_frameNN.nii.gz; found "
            f"{names}. Name the folder that holds them, rename folders so, or write a datalist by hand: docs/README.md."
        )
    return cases


def find_label_names(dataset_dir: Path, cases: Sequence[FoundCase]) -> list[str]:
    """The classes' names in ``dataset.json``, or ``background``, ``label_1``, ... up to the greatest label value found.

    Raises:
        DataError: no case has a label, or the values are not 0, 1, ... without gaps.
    """
    named = read_decathlon_labels(dataset_dir)
    if named:
        return named
    paths = [str(dataset_dir / case.label) for case in cases if case.label]
    if not paths:
        raise DataError(
            f"dataset_dir {dataset_dir}: expected at least one label, found none; put labels into labels/, or name the "
            'classes with --labels "background,name,...".'
        )
    with ThreadPoolExecutor(2) as pool:
        bar = tqdm(pool.map(_values, paths), "reading labels", len(paths), unit="file", disable=None)
        found = {float(value) for values in bar for value in values}
    count = max(len(found | {0.0}), 2)
    if found | {0.0} != {float(index) for index in range(count)}:
        shown = ", ".join(f"{value:g}" for value in sorted(found)[:10])
        raise DataError(
            f"dataset_dir {dataset_dir}: expected label values 0, 1, 2, ... without gaps, found {shown}; write "
            "labels with such values, or, where a class between is merely absent, name all with --labels "
            '"background,name,...".'
        )
    return ["background", *(f"label_{index}" for index in range(1, count))]


def _values(path: str) -> np.ndarray:
    return np.unique(read_voxels(path, is_label=True).T)
