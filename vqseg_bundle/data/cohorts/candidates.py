"""The patients among whom those to label are chosen: of a datalist, or of a folder that has none yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..layouts.folder_layouts import FoundClasses, find_scans
from ..layouts.found_case import FoundCase
from .cohort import find_datalist
from .datalist import Cohort, cohort_of_lists, load_datalist

__all__ = ["Candidates", "find_candidates"]


@dataclass(frozen=True)
class Candidates:
    """Patients and their images (absolute paths), without those of the validation and test lists.

    ``labeled`` are the patients that have labels already, ``held_out`` those of a datalist's validation and test lists;
    ``classes`` are its class names and their values, none of a folder's; ``source`` is the datalist or the folder.
    """

    scans: dict[str, list[str]]
    labeled: dict[str, list[str]]
    held_out: dict[str, list[str]]
    classes: FoundClasses
    source: str


def find_candidates(
    dataset_dir: str | Path,
    datalist: str | None = None,
    patient_pattern: str | None = None,
    ignore_labels: bool = False,
    allow_outside_files: bool = False,
) -> Candidates:
    """The candidates of a datalist, by default the folder's; without one, all volumes of the folder.

    Args:
        dataset_dir: folder of the volumes, in a layout of :func:`~vqseg_bundle.data.find_cases`, or of images only.
        datalist: datalist, if not in the folder.
        patient_pattern: see :func:`~vqseg_bundle.data.find_cases`; datalists name the patients.
        ignore_labels: take labelled patients for unlabelled ones, to compare with other choices.
        allow_outside_files: see :func:`~vqseg_bundle.data.open_cohort`.

    Raises:
        DataError: the folder or datalist cannot be used, or every patient is labelled.
    """
    root = Path(dataset_dir).expanduser()
    file = Path(datalist).expanduser() if datalist else find_datalist(root)
    if file is not None:
        cohort = load_datalist(file, root, allow_outside=allow_outside_files)
    else:
        cohort = _cohort_of_folder(find_scans(root, patient_pattern), root)
    labeled = {} if ignore_labels else _by_patient(cohort.training)
    unlabeled = [*cohort.unlabeled, *(cohort.training if ignore_labels else [])]
    scans = {patient: images for patient, images in _by_patient(unlabeled).items() if patient not in labeled}
    if not scans:
        raise DataError(
            f"{cohort.source}: expected patients without labels to choose from, found {len(labeled)} with labels and "
            "none without. --ignore-labels takes them for unlabelled, to try out a choice."
        )
    held_out = {"validation": cohort.validation, "test": cohort.test} if file is not None else {}
    patients = {split: list(_by_patient(cases)) for split, cases in held_out.items()}
    classes = FoundClasses(tuple(cohort.indices.values()), tuple(cohort.label_values.values()))
    return Candidates(scans, labeled, patients, classes if file is not None else FoundClasses(()), cohort.source)


def _cohort_of_folder(cases: Sequence[FoundCase], root: Path) -> Cohort:
    lists: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for case in cases:
        images = [str(root.absolute() / path) for path in (case.image, *case.more_channels)]
        entry = {"image": images, "patient": case.patient, **case.info}
        if case.label:
            entry["label"] = str(root.absolute() / case.label)
        lists[case.split or ("training" if case.label else "unlabeled")].append(entry)
    return cohort_of_lists(lists, {}, root.name, str(root))


def _by_patient(cases: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        found[case["patient"]].append(case["image"])
    return dict(sorted(found.items()))
