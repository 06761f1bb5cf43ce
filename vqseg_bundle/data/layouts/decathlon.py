"""A task of the Medical Segmentation Decathlon, as its ``dataset.json`` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..case_names import case_stem
from ..errors import DataError
from .found_case import FoundCase, patient_of

__all__ = ["find_decathlon", "read_channel_names", "read_decathlon_labels"]


def find_decathlon(root: Path, patient_pattern: str | None) -> list[FoundCase]:
    """The task's training cases; its test images, whose labels are not public, are none of them.

    Empty where there is no ``dataset.json``.

    Raises:
        DataError: the file is not in the Decathlon's form.
    """
    content = _read(root)
    cases = []
    for entry in content.get("training", []):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            raise DataError(
                f'{root / "dataset.json"}: expected {{"image": path, "label": path}} under "training", found {entry!r}.'
            )
        image, label = (Path(entry[key]).as_posix() for key in ("image", "label"))
        cases.append(FoundCase(image, label, patient_of(case_stem(image), patient_pattern)))
    return cases


def read_decathlon_labels(root: Path) -> list[str]:
    """The names of the classes; empty where there is no ``dataset.json``, or none in it."""
    labels = _read(root).get("labels")
    if not isinstance(labels, dict) or sorted(labels) != sorted(str(index) for index in range(len(labels))):
        return []
    return [str(labels[str(index)]) for index in range(len(labels))]


def read_channel_names(root: Path) -> list[str]:
    """What the images' channels are, by ``channel_names`` (nnU-Net) or ``modality``; empty where none says it."""
    content = _read(root)
    names = content.get("channel_names") or content.get("modality")
    if not isinstance(names, dict) or sorted(names) != sorted(str(index) for index in range(len(names))):
        return []
    return [str(names[str(index)]) for index in range(len(names))]


def _read(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected a JSON file, but it cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}.")
    return content
