"""Layouts known by the names of their folders.

- ACDC: ``patientNNN/patientNNN_frameNN.nii.gz`` with ``..._gt.nii.gz`` and ``Info.cfg``. ``training/`` and ``testing/``
  may be in between; cases of ``testing/`` are test cases.
- BraTS: a folder per patient, a file per channel, and the label ``..._seg`` beside them. The patients' folders may be
  in others, such as ``HGG/`` and ``LGG/``.
- ``labeled/`` and ``unlabeled/`` say which cases are labelled. ``train/`` and ``test/``, with or without ``val/``
  (``valid/``, ``validation/``), fix the test and validation lists; in each, images and labels are in a pair of folders,
  side by side, or in a folder per patient.
- The published VQ-Seg code's ``train-label/``, ``train-unlabel/``, ``val/`` and ``test/`` fix every case's list; each
  has ``image/`` and ``mask/`` (or another pair of folders), and masks in ``unlabeled/`` and ``train-unlabel/`` are not
  read.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..errors import DataError, some
from .beside import find_beside, find_patient_folders
from .channel_files import find_brats_channels
from .found_case import FoundCase, case_stem, patient_of
from .pairs import find_pairs, group_channels, pair_folders
from .volume_folder import leads_up

__all__ = ["find_acdc", "find_brats", "find_split_folders"]

_FRAME = re.compile(r"^patient\d+_frame(\d+)$")
_ACDC_PARTS = {"": "", "training": "", "testing": "test"}
_PHASES = ("ED", "ES")
_FOLDERS = ("", "*/", "*/*/")
_LABEL_ENDINGS = ("_seg", "-seg")
_SCAN = re.compile(r"^(BraTS-[A-Za-z]+-\d+)-\d{3}$")  # a patient's number, then the scan's
_UNLABELED = "unlabeled"
_PUBLISHED = {"train-label": "training", "train-unlabel": _UNLABELED, "val": "validation", "test": "test"}
_SPLIT_FOLDERS = {
    "train": "",
    "training": "",
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_NEED_LABELS = ("training", "validation")
_ACDC_SLICE = re.compile(r"^(patient\d+)_")


def find_acdc(root: Path) -> list[FoundCase]:
    """Frames sorted by path; a folder is a patient, ``info`` has the phase (ED, ES) and the group (DCM, HCM, ...)."""
    cases = []
    for part, split in _ACDC_PARTS.items():
        for path in sorted((root / part).glob("patient*/patient*.nii*")):
            frame = _FRAME.match(case_stem(path.name))
            if frame is None:
                continue
            label = path.with_name(path.name.replace(".nii", "_gt.nii"))
            info = _frame_info(_read_info(path.with_name("Info.cfg")), int(frame[1]))
            label_file = label if label.is_file() or label.is_symlink() else None
            cases.append(FoundCase.of(root, [path], label_file, path.parent.name, split=split, info=info))
    return cases


def _read_info(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    pairs = (line.partition(":") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs if value.strip()}


def _frame_info(info: dict[str, str], frame: int) -> dict[str, str]:
    phases = [phase for phase in _PHASES if info.get(phase, "").isdigit() and int(info[phase]) == frame]
    found = {"phase": phases[0]} if phases else {}
    return {**found, **({"group": info["Group"]} if "Group" in info else {})}


def find_brats(root: Path, patient_pattern: str | None) -> list[FoundCase]:
    """Cases sorted by path; a missing label is empty. DataError: a case lacks a channel, or the pattern does not match.

    Without a pattern, each case is one patient, except that scans ``BraTS-GLI-00005-000`` and ``-001`` share one.
    """
    folders: dict[Path, dict[str, Path]] = {}
    for below in _FOLDERS:
        for file in sorted(root.glob(f"{below}*.nii*")):
            inner = file.relative_to(root).parents
            if not file.name.startswith(".") and not any(leads_up(root / folder) for folder in inner if folder.name):
                folders.setdefault(file.parent, {})[case_stem(file.name)] = file
    if not any(find_brats_channels(files) for files in folders.values()):
        return []
    cases = []
    for files in folders.values():
        if not find_brats_channels(files, certain=True):
            continue
        for name, paths in group_channels(files, (), brats=True).items():
            if len(paths) > 1:
                labels = [files[name + ending] for ending in _LABEL_ENDINGS if name + ending in files]
                scan = _SCAN.match(name) if patient_pattern is None else None
                patient = scan[1] if scan else patient_of(name, patient_pattern)
                cases.append(FoundCase.of(root, paths, labels[0] if labels else None, patient))
    return sorted(cases, key=lambda case: case.image)


def find_split_folders(root: Path, patient_pattern: str | None) -> list[FoundCase]:
    """Cases in the order of the folders; empty without any of these folders.

    Slices of ACDC (``patient001_...``) belong to that patient; without a pattern, each other case is one patient.
    DataError: no images, a case of ``train-label/`` or ``val/`` without a mask, or as for :func:`find_pairs`.
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
    parts = [(there[name], split) for name, split in _SPLIT_FOLDERS.items() if name in there]
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
