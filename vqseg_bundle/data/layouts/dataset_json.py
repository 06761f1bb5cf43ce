"""Folders with a ``dataset.json``: tasks of the Medical Segmentation Decathlon and of nnU-Net 1 and 2.

- Decathlon and nnU-Net 1 list ``{"image": path, "label": path}`` under ``training``; MONAI's own lists have such cases
  under ``validation`` as well. nnU-Net's files have the channel's number after the listed name, ``x_0000.nii.gz`` for
  ``x.nii.gz``. A ``patient`` beside an image is its patient.
- nnU-Net 2 lists nothing, so that the cases are those of ``imagesTr/`` and ``labelsTr/``, or names every file under
  ``dataset``. Its ``labels`` map names to indices, the others' indices to names.

Images of ``imagesTs/``, and others listed under ``test``, are unlabelled cases, or test cases if ``labelsTs/`` or the
list has their labels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vqseg_bundle.common import read_json

from ..errors import DataError, some
from ..formats.volume_io import check_ignore_last
from .found_case import FoundCase, case_stem, patient_of, stated_patient
from .pairs import find_pairs

__all__ = ["find_dataset_json", "read_channel_names", "read_label_names"]

_NAME = "dataset.json"
_FIRST = "_0000"  # nnU-Net's suffix of a case's first channel
_TEST_IMAGES, _TEST_LABELS = "imagesTs", "labelsTs"
_DECIMAL = re.compile("[0-9]{1,18}")  # str.isdigit takes superscripts, too
_NAME_THEM = 'or name the classes with --labels "background,name,..."'


def find_dataset_json(root: Path, patient_pattern: str | None) -> list[FoundCase]:
    """Cases by ``dataset.json``, empty without; DataError: another form, missing files, or a channel is missing."""
    content = _read(root)
    if not content:
        return []
    if isinstance(content.get("dataset"), dict):
        cases = _named_cases(root, content["dataset"], patient_pattern)
    elif content.get("training"):
        cases = _listed_cases(root, content["training"], "training", patient_pattern)
    elif (root / "imagesTr").is_dir():
        cases = find_pairs(root, "imagesTr", "labelsTr", patient_pattern)
    else:
        return []
    cases += _validation_cases(root, content.get("validation") or [], {case.image for case in cases}, patient_pattern)
    cases += _test_cases(root, content.get("test") or [], {case.image for case in cases}, patient_pattern)
    _refuse_missing(root, cases)
    return cases


def read_channel_names(root: Path) -> list[str]:
    """Names of the images' channels, from ``channel_names`` (nnU-Net 2) or ``modality``; empty if neither exists."""
    content = _read(root)
    names = content.get("channel_names") or content.get("modality")
    if not isinstance(names, dict) or sorted(names) != sorted(str(index) for index in range(len(names))):
        return []
    return [str(names[str(index)]) for index in range(len(names))]


def read_label_names(root: Path) -> dict[int, str]:
    """Class names by label value; empty if ``dataset.json`` gives none.

    DataError: nnU-Net's regions (one name for several indices); an index that is no whole number from 0 on; two classes
    with one name or index; a class "ignore" that is not the last.
    """
    labels = _read(root).get("labels")
    if isinstance(labels, list):
        labels = {str(index): name for index, name in enumerate(labels)}
    if not isinstance(labels, dict) or not labels:
        return {}
    names = {0: "background", **_by_index(root, labels)}
    if len(set(names.values())) < len(names):
        raise DataError(
            f'{root / _NAME}: expected a different name for each class under "labels", found {labels} (0 is the '
            f"background); correct them, {_NAME_THEM}."
        )
    found = dict(sorted(names.items()))
    check_ignore_last(list(found.values()), f'{root / _NAME}: key "labels"')
    return found


def _by_index(root: Path, labels: Mapping[str, Any]) -> dict[int, str]:
    """Names by index, whichever of the two the keys are."""
    regions = [name for name, index in labels.items() if isinstance(index, list)]
    if regions:
        raise DataError(
            f"{root / _NAME}: {', '.join(regions)} are regions of several classes, which are not supported; name the "
            'classes themselves with --labels "background,name,...".'
        )
    pairs = [(key, str(value)) if _is_by_index(labels) else (value, key) for key, value in labels.items()]
    wrong = [f"{json.dumps(index, ensure_ascii=False)} for {name}" for index, name in pairs if _number(index) is None]
    if wrong:
        raise DataError(
            f'{root / _NAME}: expected a whole number from 0 on for each class under "labels", found {some(wrong)}; '
            f"correct them, {_NAME_THEM}."
        )
    names = {number: name for index, name in pairs if (number := _number(index)) is not None}
    if len(names) < len(labels):
        raise DataError(
            f'{root / _NAME}: expected a different number for each name under "labels", found {labels}; correct them, '
            f"{_NAME_THEM}."
        )
    return names


def _is_by_index(labels: Mapping[str, Any]) -> bool:
    """Whether the keys are the indices: all are numbers, or no value is one."""
    values = any(isinstance(value, int | float) or _number(value) is not None for value in labels.values())
    return not values or all(_number(key) is not None for key in labels)


def _number(index: object) -> int | None:
    """A whole number from 0 on, possibly in decimal digits; None for anything else, such as 1.5, true and -1."""
    if isinstance(index, str):
        return int(index) if _DECIMAL.fullmatch(index) else None
    if isinstance(index, bool) or not isinstance(index, int | float) or index < 0:
        return None
    return int(index) if isinstance(index, int) or index.is_integer() else None


def _listed_cases(root: Path, entries: Any, key: str, pattern: str | None) -> list[FoundCase]:
    cases = []
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, dict) or not all(_is_path(entry.get(part)) for part in ("image", "label")):
            raise DataError(
                f'{root / _NAME}: expected {{"image": path, "label": path}} under "{key}", found {entry!r}; correct '
                "the list."
            )
        image, label = (Path(entry[part]).as_posix() for part in ("image", "label"))
        channels = _channels(root, image)
        patient = _stated_patient(root, entry) or patient_of(case_stem(image), pattern)
        cases.append(_case(channels, label, patient))
    return cases


def _stated_patient(root: Path, entry: Mapping[str, Any]) -> str:
    """The patient that an entry names, empty without one."""
    if entry.get("patient") is None:
        return ""
    patient = stated_patient(entry["patient"])
    if patient is None:
        raise DataError(
            f'{root / _NAME}: expected a name or a whole number under "patient", found {entry!r}; correct the list.'
        )
    return patient


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _channels(root: Path, image: str) -> list[str]:
    """The listed file, or those with a channel's number after its name."""
    if (root / image).exists():
        return [image]
    listed = Path(image)
    stem = case_stem(listed.name)
    ending = listed.name[len(stem) :]
    found = sorted((root / listed.parent).glob(f"{_escaped(stem)}_[0-9][0-9][0-9][0-9]{_escaped(ending)}"))
    numbers = [int(case_stem(path.name)[-4:]) for path in found]
    if not found or numbers != list(range(len(numbers))):
        shown = f"channels {', '.join(map(str, numbers))}" if found else f"neither it nor {stem}_0000{ending}"
        slashes = " (its paths use /)" if "\\" in image else ""
        raise DataError(
            f"{root / _NAME}: expected the image {image}, found {shown}; correct the list{slashes} or add the files."
        )
    return [path.relative_to(root).as_posix() for path in found]


def _escaped(text: str) -> str:
    return "".join(f"[{sign}]" if sign in "[*?" else sign for sign in text)


def _named_cases(root: Path, named: Mapping[str, Any], pattern: str | None) -> list[FoundCase]:
    """nnU-Net 2's ``{"case": {"images": [one file per channel], "label": file}}``."""
    cases = []
    for name, entry in named.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        if not isinstance(images, list) or not images or not all(isinstance(path, str) for path in images):
            raise DataError(
                f'{root / _NAME}: expected {{"images": [path, ...], "label": path}} for {name} under "dataset", found '
                f"{entry!r}; correct the list."
            )
        label = str(entry.get("label") or "")
        channels = [Path(path).as_posix() for path in images]
        patient = _stated_patient(root, entry) or patient_of(name, pattern)
        cases.append(_case(channels, Path(label).as_posix() if label else "", patient))
    return cases


def _validation_cases(root: Path, entries: Any, known: set[str], pattern: str | None) -> list[FoundCase]:
    """Of lists as MONAI's own have them; ``known`` are the images of the training cases."""
    cases = _listed_cases(root, entries, "validation", pattern)
    _refuse_twice(root, known & {case.image for case in cases}, "validation")
    return [replace(case, split="validation") for case in cases]


def _refuse_twice(root: Path, twice: set[str], key: str) -> None:
    if twice:
        raise DataError(
            f"{root / _NAME}: expected each image in one list, found {some(sorted(twice))} in an earlier one and under "
            f'"{key}"; take them out of one.'
        )


def _test_cases(root: Path, entries: Any, known: set[str], pattern: str | None) -> list[FoundCase]:
    """Cases of the list, then the folder's others; ``known`` are the images of the other lists."""
    there: list[FoundCase] = []
    if (root / _TEST_IMAGES).is_dir() and any((root / _TEST_IMAGES).iterdir()):
        there = find_pairs(root, _TEST_IMAGES, _TEST_LABELS, pattern)
    by_file = {(root / file).resolve(): case for case in there for file in (case.image, *case.more_channels)}
    found: dict[str, FoundCase] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        image, label, patient = _test_entry(root, entry)
        channels = _channels(root, image)
        case = by_file.get((root / channels[0]).resolve()) or _case(channels, "", patient_of(case_stem(image), pattern))
        found[case.image] = replace(case, label=label or case.label, patient=patient or case.patient)
    _refuse_twice(root, known & found.keys(), "test")
    cases = [*found.values(), *(case for case in there if case.image not in found)]
    return [replace(case, split="test" if case.label else "unlabeled") for case in cases if case.image not in known]


def _test_entry(root: Path, entry: Any) -> tuple[str, str, str]:
    """Paths of an image and its label, and its patient; both of these may be empty."""
    paths = entry if isinstance(entry, dict) else {"image": entry}
    image, label = paths.get("image"), paths.get("label") or ""
    if not isinstance(image, str) or not image or not isinstance(label, str):
        raise DataError(
            f'{root / _NAME}: expected a path, or {{"image": path}}, for each image under "test", found {entry!r}; '
            "correct the list."
        )
    return Path(image).as_posix(), Path(label).as_posix() if label else "", _stated_patient(root, paths)


def _refuse_missing(root: Path, cases: list[FoundCase]) -> None:
    """Refuse missing files and channels: every case with nnU-Net's numbers must have all of them."""
    files = [path for case in cases for path in (case.image, *case.more_channels, case.label) if path]
    missing = [path for path in files if not (root / path).exists()]
    if missing:
        raise DataError(
            f"{root / _NAME}: expected the files of every case, found none called {some(missing)}; correct the list or "
            "add the files."
        )
    numbered = [case for case in cases if case_stem(case.image).endswith(_FIRST)]
    if not any(case.more_channels or case_stem(case.image) == case_stem(case.label) + _FIRST for case in numbered):
        return
    count = max(len(read_channel_names(root)), *(1 + len(case.more_channels) for case in numbered))
    short = [case_stem(case.image) for case in numbered if 1 + len(case.more_channels) < count]
    if short:
        lacking = [f"{name.removesuffix(_FIRST)}_{count - 1:04d}" for name in short]
        raise DataError(
            f"{root / _NAME}: expected {count} channels of every case, found none called {some(lacking)}; add "
            "the files, or take the cases out."
        )


def _case(channels: list[str], label: str, patient: str) -> FoundCase:
    return FoundCase(channels[0], label, patient, more_channels=tuple(channels[1:]))


def _read(root: Path) -> dict[str, Any]:
    path = root / _NAME
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: expected a JSON file, but it cannot be read: {error}; correct it, or take it out."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}; correct it, or take it out.")
    return content
