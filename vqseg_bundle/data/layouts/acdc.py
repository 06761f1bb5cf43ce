"""ACDC as the challenge hands it out: ``patientNNN/patientNNN_frameNN.nii.gz`` with ``..._gt.nii.gz``, ``Info.cfg``.

``training/`` and ``testing/`` may lie between; cases of ``testing/`` are for testing.
"""

from __future__ import annotations

import re
from pathlib import Path

from .case_names import case_stem
from .found_case import FoundCase

__all__ = ["find_acdc"]

_FRAME = re.compile(r"^patient\d+_frame(\d+)$")
_PARTS = {"": "", "training": "", "testing": "test"}
_PHASES = ("ED", "ES")


def find_acdc(root: Path) -> list[FoundCase]:
    """Frames sorted by path; a patient is a folder, ``info`` tells the phase (ED, ES) and the group (DCM, HCM, ...)."""
    cases = []
    for part, split in _PARTS.items():
        for path in sorted((root / part).glob("patient*/patient*.nii*")):
            frame = _FRAME.match(case_stem(path.name))
            if frame is None:
                continue
            label = path.with_name(path.name.replace(".nii", "_gt.nii"))
            cases.append(
                FoundCase(
                    image=path.relative_to(root).as_posix(),
                    label=label.relative_to(root).as_posix() if label.is_file() else "",
                    patient=path.parent.name,
                    split=split,
                    info=_frame_info(_read_info(path.with_name("Info.cfg")), int(frame[1])),
                )
            )
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
