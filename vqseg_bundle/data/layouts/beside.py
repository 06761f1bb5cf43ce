"""Labels that lie beside their images: in one folder for all, or in a folder a patient.

A label is called ``label``, ``seg``, ``segmentation`` or the like, or as its image with such an ending, ``x_seg``,
``x-label``, ``x.seg``. What is called so makes the layout: without any, nothing is found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import DataError
from ..formats import volume_kind
from .case_names import case_stem, image_of_label, is_label_name
from .found_case import FoundCase, patient_of, some
from .pairs import group_channels
from .volume_folder import list_series_paths

__all__ = ["find_beside", "find_patient_folders"]

_FLAT_KINDS = ("picture", "array")


def find_beside(root: Path, patient_pattern: str | None) -> list[FoundCase]:
    """Cases of a folder that holds images and labels side by side, by name.

    Raises:
        DataError: a label has no image, an image has two labels, two files have one name, or the pattern does not
            match.
    """
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
        _case(root, paths, labels[name][0] if name in labels else None, patient_of(name, patient_pattern))
        for name, paths in sorted(images.items())
    ]


def find_patient_folders(root: Path, patient_pattern: str | None) -> list[FoundCase]:
    """Cases of a folder that holds a folder a patient, each with one image and, where there is one, its label.

    The patient is the folder, unless the pattern finds it in the folder's name.

    Raises:
        DataError: a folder holds several images that are not channels of one, or the pattern does not match.
    """
    cases = []
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
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
        cases.append(_case(root, found[0], label, patient_of(folder.name, patient_pattern)))
    return cases if any(case.label for case in cases) else []


def _is_label(name: str, several: bool) -> bool:
    """By its name alone, or by its ending where something else is there that it can be a label of."""
    return is_label_name(name) or (image_of_label(name) != name and several)


def _files(folder: Path) -> dict[str, Path]:
    """Paths by name; a picture or array is a preview where there is a volume, unless it is called as a label."""
    entries = [
        entry
        for entry in sorted(folder.iterdir())
        if entry.is_file() and not entry.name.startswith(".") and volume_kind(entry) not in ("", "dicom")
    ]
    volumes = {case_stem(entry.name): entry for entry in entries if volume_kind(entry) not in _FLAT_KINDS}
    has_image = not all(_is_label(name, several=True) for name in volumes)
    found: dict[str, Path] = {}
    for entry in entries:
        name = case_stem(entry.name)
        preview = name in volumes or (has_image and not _is_label(name, several=True))
        if preview and volume_kind(entry) in _FLAT_KINDS:
            continue
        if name in found:
            raise DataError(
                f"{entry}: expected one file a name, found {found[name].name} besides; take one of them out."
            )
        found[name] = entry
    return found


def _series(folder: Path) -> Iterator[str]:
    """DICOM series in a patient's folder, or in one below."""
    for place in (folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())):
        yield from list_series_paths(place)


def _case(root: Path, paths: Sequence[Path], label: Path | None, patient: str) -> FoundCase:
    channels = [path.relative_to(root).as_posix() for path in paths]
    return FoundCase(
        channels[0],
        label.relative_to(root).as_posix() if label else "",
        patient,
        more_channels=tuple(channels[1:]),
    )
