"""Images and labels of the same names in two folders, in any format; a DICOM series is a folder in the first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..case_names import case_stem, image_of_label
from ..errors import DataError
from ..formats import list_series, volume_kind
from ..volume_folder import list_series_paths
from .found_case import FoundCase, patient_of, some

__all__ = ["find_pairs", "pair_folders"]

_FOLDER_PAIRS = (("images", "labels"), ("images", "masks"), ("imagesTr", "labelsTr"), ("image", "mask"))
_CHANNEL = re.compile(r"_(\d{4})$")
_IMAGE_ENDING = re.compile(r"_(image|img)$")


def pair_folders(root: Path) -> tuple[str, str] | None:
    """Names of the folders of images and of labels; the second need not exist."""
    present = [(images, labels) for images, labels in _FOLDER_PAIRS if (root / images).is_dir()]
    return next((pair for pair in present if (root / pair[1]).is_dir()), present[0] if present else None)


def find_pairs(root: Path, images: str, labels: str, patient_pattern: str | None) -> list[FoundCase]:
    """Cases by name; those without label have an empty one.

    A file in a folder below has the folder's name before its own: ``a/b.nii.gz`` is ``a_b``. ``x_0000`` is nnU-Net's
    name of the first channel of ``x``; an image may be called ``x_image`` or ``x_img``, a label ``x_seg``, ``x_mask``,
    ``x_label``, ``x_gt`` or ``x_segmentation``.

    Raises:
        DataError: a folder is empty, two files have one name, a label lies among the images or lacks its image, or the
            pattern does not match.
    """
    image_by_name = _rename_images(_volumes(root / images))
    if not image_by_name:
        raise DataError(
            f"{root / images}: expected volumes, pictures or folders of DICOM slices, found none; put the images there."
        )
    _refuse_labels_among(image_by_name)
    label_by_name = _volumes(root / labels) if (root / labels).is_dir() else {}
    label_by_name = _rename_labels(label_by_name, image_by_name)
    orphans = sorted(set(label_by_name) - set(image_by_name))
    if orphans:
        files = some([label_by_name[name].relative_to(root / labels).as_posix() for name in orphans])
        raise DataError(
            f"{root / labels}: expected each label to be called as its image, found none in {images}/ for {files} "
            f"(images are called {some(sorted(image_by_name))}); rename them alike, or take the labels out."
        )
    return [
        FoundCase(
            image=path.relative_to(root).as_posix(),
            label=label_by_name[name].relative_to(root).as_posix() if name in label_by_name else "",
            patient=patient_of(name, patient_pattern),
        )
        for name, path in sorted(image_by_name.items())
    ]


def _rename_images(images: dict[str, Path]) -> dict[str, Path]:
    renamed = {_IMAGE_ENDING.sub("", name): path for name, path in images.items()}
    return renamed if len(renamed) == len(images) else images


def _rename_labels(labels: dict[str, Path], images: dict[str, Path]) -> dict[str, Path]:
    renamed: dict[str, Path] = {}
    for label, path in labels.items():
        name = label if label in images else image_of_label(label)
        if name in renamed:
            raise DataError(f"{path}: expected one label an image, found {renamed[name].name} for {name}, too.")
        renamed[name] = path
    return renamed


def _refuse_labels_among(images: dict[str, Path]) -> None:
    """Labels that lie beside their images would be taken for images without label."""
    for name, path in images.items():
        if image_of_label(name) != name and image_of_label(name) in images:
            other = images[image_of_label(name)].name
            raise DataError(
                f"{path}: expected images alone, found what is called as the label of {other}; put labels into a "
                "folder labels/ beside the images' folder."
            )


def _volumes(folder: Path) -> dict[str, Path]:
    """Paths by case name; nnU-Net's channel number is not part of the latter."""
    found: dict[str, Path] = {}
    for name, path in _named_volumes(folder):
        channel = _CHANNEL.search(name)
        case = name[: channel.start()] if channel else name
        if case in found or (channel and int(channel[1]) > 0):
            raise DataError(
                f"{path}: expected one file a case, found a second for case {case}; merge channels that lie in "
                "separate files (_0000, _0001) to one volume."
            )
        found[case] = path
    return found


def _named_volumes(folder: Path) -> Iterator[tuple[str, Path]]:
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    if any(entry.is_file() and volume_kind(entry) == "dicom" for entry in entries):
        _refuse_loose_series(folder)
    for entry in entries:
        if entry.is_dir():
            yield from _named_series(entry)
            yield from _named_below(entry)
        elif volume_kind(entry):
            yield case_stem(entry.name), entry


def _named_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Other volumes below a folder, by all that leads to them: a/b.png is a_b."""
    for file in sorted(folder.rglob("*")):
        inner = file.relative_to(folder.parent)
        if (
            file.is_file()
            and volume_kind(file) not in ("", "dicom")
            and not any(p.startswith(".") for p in inner.parts)
        ):
            yield case_stem(inner.as_posix().replace("/", "_")), file


def _named_series(folder: Path) -> Iterator[tuple[str, Path]]:
    """All series below a folder: one is called as the folder, several by what tells them apart besides."""
    paths = [path for below in (folder, *sorted(folder.rglob("*/"))) for path in list_series_paths(below)]
    for path in paths:
        inner = Path(path).relative_to(folder.parent).as_posix()
        yield (folder.name if len(paths) == 1 else case_stem(inner.replace("/", "_"))), Path(path)


def _refuse_loose_series(folder: Path) -> None:
    """A DICOM file beside others is an image of its own; slices of one series would be taken for many."""
    longest = max(list_series(folder).values(), default=0)
    if longest > 1:
        raise DataError(f"{folder}: expected each DICOM series in a folder of its own, found {longest} slices of one.")
