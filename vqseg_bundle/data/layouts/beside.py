"""Labels beside their images: in one folder, or in a folder per patient.

A label is named ``label``, ``seg``, ``segmentation`` or the like, or like its image with such an ending, ``x_seg``,
``x-label``, ``x.seg``. Such names identify the layout: without any, nothing is found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import DataError, some
from ..formats.table import is_flat, volume_kind
from .file_roles import PREDICTIONS, folder_reason, image_of_label, is_label_name, is_training_result, name_reasons
from .found_case import FoundCase, case_stem, patient_of
from .pairs import group_channels
from .volume_folder import leads_up, list_series_paths

__all__ = ["find_beside", "find_patient_folders"]


def find_beside(root: Path, patient_pattern: str | None) -> list[FoundCase]:
    """Cases of one folder, by name; DataError: a label without an image, two labels, a repeated name, or no match."""
    files = {name: path for name, path in _files(root).items() if not is_label_name(name)}
    labels: dict[str, list[Path]] = defaultdict(list)
    for name, path in files.items():
        if image_of_label(name) != name:
            labels[image_of_label(name)].append(path)
    images = group_channels({name: path for name, path in files.items() if image_of_label(name) == name}, ())
    if not images.keys() & labels.keys():
        return []
    for image, those in labels.items():
        if image not in images:
            raise DataError(
                f"{those[0]}: expected each label beside its image, found none called {image}; rename them alike, or "
                "take the label out."
            )
        if len(those) > 1:
            raise DataError(f"{those[1]}: expected one label an image, found {those[0].name} for {image}, too.")
    return [
        FoundCase.of(root, paths, labels[name][0] if name in labels else None, patient_of(name, patient_pattern))
        for name, paths in sorted(images.items())
    ]


def find_patient_folders(root: Path, patient_pattern: str | None) -> list[FoundCase]:
    """Cases of a folder per patient, each with one image and at most one label; the folder's name is the patient.

    DataError: a folder contains several images that are not channels of one, or the pattern does not match.
    """
    cases = []
    for folder in _folders(root):
        files, series = _files(folder), [Path(path) for path in _series(folder)]
        several = len(files) + len(series) > 1
        labels = [path for name, path in files.items() if _is_label(name, several)]
        images = group_channels({name: path for name, path in files.items() if path not in labels}, ())
        found = [*images.values(), *((path,) for path in series)]
        if not found:
            continue
        if len(found) > 1 or len(labels) > 1:
            what = "image" if len(found) > 1 else "label"
            names = some([paths[0].name for paths in found] if len(found) > 1 else [path.name for path in labels])
            raise DataError(
                f"{folder}: expected one image and one label at most in a patient's folder, found {what}s {names}; "
                "give channels one name with _0000, _0001, ... behind it, take the others out, or list them by hand."
            )
        label = labels[0] if labels else None
        cases.append(FoundCase.of(root, found[0], label, patient_of(folder.name, patient_pattern)))
    return cases if any(case.label for case in cases) else []


def _is_label(name: str, several: bool) -> bool:
    """Whether a file is a label by its whole name, or by its ending if there is an image for it."""
    return is_label_name(name) or (image_of_label(name) != name and several)


def _files(folder: Path) -> dict[str, Path]:
    """Paths by name without predictions; beside a volume, a picture or array is a preview unless named as a label."""
    entries = [
        entry
        for entry in sorted(folder.iterdir())
        if (entry.is_file() or entry.is_symlink())
        and not entry.name.startswith(".")
        and volume_kind(entry) not in ("", "dicom")
        and not is_training_result(entry)
    ]
    volumes = {case_stem(entry.name): entry for entry in entries if not is_flat(entry)}
    has_image = not all(_is_label(name, several=True) for name in volumes)
    found: dict[str, Path] = {}
    for entry in entries:
        name = case_stem(entry.name)
        preview = name in volumes or (has_image and not _is_label(name, several=True))
        if preview and is_flat(entry):
            continue
        if name in found:
            raise DataError(
                f"{entry}: expected one file a name, found {found[name].name} besides; take one of them out."
            )
        found[name] = entry
    return _without_predictions(found)


def _without_predictions(files: Mapping[str, Path]) -> dict[str, Path]:
    """Files without those named as a prediction of another; one with a label of its name is an image all the same."""
    labelled = {image_of_label(name) for name in files if image_of_label(name) != name}
    reasons = name_reasons([str(path) for path in files.values()])
    return {name: path for name, path in files.items() if reasons.get(str(path)) != PREDICTIONS or name in labelled}


def _series(folder: Path) -> Iterator[str]:
    """DICOM series in a patient's folder or a subfolder."""
    for place in (folder, *_folders(folder)):
        yield from list_series_paths(place)


def _folders(root: Path) -> list[Path]:
    entries = sorted(root.iterdir())
    return [
        entry
        for entry in entries
        if entry.is_dir() and not entry.name.startswith(".") and not folder_reason(entry.name) and not leads_up(entry)
    ]
