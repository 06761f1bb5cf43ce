"""ACDC and BraTS as distributed by their challenges.

- ACDC: ``patientNNN/patientNNN_frameNN.nii.gz`` with ``..._gt.nii.gz`` and ``Info.cfg``. ``training/`` and ``testing/``
  may be in between; cases of ``testing/`` are test cases.
- BraTS: a folder per patient, a file per channel, and the label ``..._seg`` beside them. The patients' folders may be
  in others, such as ``HGG/`` and ``LGG/``.
"""

from __future__ import annotations

import re
from pathlib import Path

from .channel_files import find_brats_channels
from .found_case import FoundCase, case_stem, patient_of
from .pairs import group_channels

__all__ = ["find_acdc", "find_brats"]

_FRAME = re.compile(r"^patient\d+_frame(\d+)$")
_PARTS = {"": "", "training": "", "testing": "test"}
_PHASES = ("ED", "ES")
_FOLDERS = ("", "*/", "*/*/")
_LABEL_ENDINGS = ("_seg", "-seg")
_SCAN = re.compile(r"^(BraTS-[A-Za-z]+-\d+)-\d{3}$")  # a patient's number, then the scan's


def find_acdc(root: Path) -> list[FoundCase]:
    """Frames sorted by path; a folder is a patient, ``info`` has the phase (ED, ES) and the group (DCM, HCM, ...)."""
    cases = []
    for part, split in _PARTS.items():
        for path in sorted((root / part).glob("patient*/patient*.nii*")):
            frame = _FRAME.match(case_stem(path.name))
            if frame is None:
                continue
            label = path.with_name(path.name.replace(".nii", "_gt.nii"))
            info = _frame_info(_read_info(path.with_name("Info.cfg")), int(frame[1]))
            label_file = label if label.is_file() else None
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
    """Cases sorted by path; without a label it is empty. DataError: a case lacks a channel, or the pattern fails.

    A case is a patient of its own unless the pattern says more; scans ``BraTS-GLI-00005-000`` and ``-001`` are one's.
    """
    folders: dict[Path, dict[str, Path]] = {}
    for below in _FOLDERS:
        for file in sorted(root.glob(f"{below}*.nii*")):
            if not file.name.startswith("."):
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
