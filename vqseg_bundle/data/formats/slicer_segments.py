"""What 3D Slicer's segmentations (``.seg.nrrd``) call their segments.

The file is an NRRD label map whose header has ``SegmentN_Name:=liver`` and ``SegmentN_LabelValue:=1`` for each segment.
Overlapping segments lie in layers, a fourth axis, which are no class indices and are refused as several channels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["common_segment_names"]

_FIELD = re.compile(rb"^Segment(\d+)_(Name|LabelValue):=(.*)$")
_MOST_LINES = 10_000


def common_segment_names(paths: Sequence[str]) -> dict[int, str]:
    """Label value to name, where all files are such segmentations and say the same; else empty.

    Args:
        paths: of labels.
    """
    if not paths or not all(path.lower().endswith(".seg.nrrd") for path in paths):
        return {}
    found = [_segment_names(path) for path in paths]
    return found[0] if all(names == found[0] for names in found) else {}


def _segment_names(path: str) -> dict[int, str]:
    fields: dict[int, dict[str, str]] = {}
    with Path(path).open("rb") as file:
        for _ in range(_MOST_LINES):
            line = file.readline().strip()
            if not line:  # the header ends at the first empty line
                break
            match = _FIELD.match(line)
            if match:
                fields.setdefault(int(match[1]), {})[match[2].decode()] = match[3].decode("utf-8", "replace").strip()
    # older versions name no value: they count segments from 1
    return {
        int(segment.get("LabelValue", number + 1)): segment["Name"]
        for number, segment in fields.items()
        if segment.get("Name") and segment.get("LabelValue", "1").isdigit()
    }
