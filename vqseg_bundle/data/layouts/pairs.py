"""Images and labels in two folders, matched by name, and their channels."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import DataError, some
from ..formats.dicom_slices import list_series
from ..formats.table import volume_kind
from .channel_files import find_brats_channels, find_numbered_channels
from .file_roles import LABELS_BESIDE, image_of_label, reasons_below
from .found_case import FoundCase, case_stem, patient_of
from .volume_folder import leads_up, list_series_paths

__all__ = ["find_pairs", "group_channels", "pair_folders"]

_LABEL_FOLDERS = (
    *("labels", "masks", "label", "mask", "segmentations", "segmentation", "segs", "seg"),
    *("annotations", "annotation", "gt", "groundtruth", "ground_truth"),
)
#: in order of preference, in upper or lower case
_FOLDER_PAIRS = (
    ("images", _LABEL_FOLDERS),
    ("imagesTr", ("labelsTr",)),
    ("image", _LABEL_FOLDERS),
    ("imgs", _LABEL_FOLDERS),
    ("img", _LABEL_FOLDERS),
)
_IMAGE_ENDING = re.compile(r"_(image|img)$")


def pair_folders(root: Path) -> tuple[str, str] | None:
    """Names of the folders of images and labels as spelt there; the second need not exist."""
    there = {entry.name.casefold(): entry.name for entry in sorted(root.iterdir()) if entry.is_dir()}
    present = [(there[images.casefold()], labels) for images, labels in _FOLDER_PAIRS if images.casefold() in there]
    pairs = [
        (images, there[label.casefold()]) for images, labels in present for label in labels if label.casefold() in there
    ]
    return next(iter(pairs), (present[0][0], present[0][1][0]) if present else None)


def find_pairs(root: Path, images: str, labels: str, patient_pattern: str | None) -> list[FoundCase]:
    """Cases by name; a missing label is empty.

    A file in a subfolder has both names: ``a/b.nii.gz`` is ``a_b``. Names of channels: see
    :mod:`vqseg_bundle.data.layouts.channel_files`. An image may be named ``x_image`` or ``x_img``, a label ``x_seg``,
    ``x_mask``, ``x_label``, ``x_gt`` or ``x_segmentation``.

    Left out are files that are no images by the names of their folders, such as ``predictions/``, or by their own, see
    :mod:`vqseg_bundle.data.layouts.file_roles`. One with a label of its name is an image all the same.

    DataError: a folder is empty, two files share a name, a label is among the images or lacks its image, a case lacks a
    channel that others have, or the pattern does not match.
    """
    label_by_name = _by_name(_named_volumes(root / labels)) if (root / labels).is_dir() else {}
    volumes = list(_named_volumes(root / images))
    reasons = _reasons(root / images, volumes, label_by_name)
    # a label beside its image is wanted somewhere, so that it is refused, not left out
    candidates = [(name, path) for name, path in volumes if reasons.get(path, LABELS_BESIDE) == LABELS_BESIDE]
    image_by_name = _rename_images(group_channels(_by_name(candidates), label_by_name))
    _refuse_labels_among(image_by_name)
    image_by_name = {name: paths for name, paths in image_by_name.items() if paths[0] not in reasons}
    if not image_by_name:
        raise DataError(
            f"{root / images}: expected volumes, pictures or folders of DICOM slices, found "
            f"{_only(root, reasons)}; put the images there."
        )
    label_by_name = _rename_labels(label_by_name, image_by_name)
    orphans = sorted(set(label_by_name) - set(image_by_name))
    if orphans:
        files = some([label_by_name[name].relative_to(root / labels).as_posix() for name in orphans])
        raise DataError(
            f"{root / labels}: expected each label to be called as its image, found none in {images}/ for {files} "
            f"(images are called {some(sorted(image_by_name))}); rename them alike, or take the labels out."
        )
    return [
        FoundCase.of(root, paths, label_by_name.get(name), patient_of(name, patient_pattern))
        for name, paths in sorted(image_by_name.items())
    ]


def group_channels(files: dict[str, Path], labels: Collection[str], brats: bool = False) -> dict[str, tuple[Path, ...]]:
    """The files of every case by name: one, or one per channel.

    ``brats``: a case with only one of BraTS's channels certainly lacks the others. DataError: a case lacks a channel
    that others have, or also exists as one file.
    """
    found = {**find_numbered_channels(files, labels), **find_brats_channels(files, brats)}
    grouped = {}
    for case, channels in found.items():
        missing = [channel for channel in channels if channel not in files]
        place = next(files[channel] for channel in channels if channel in files)
        if missing:
            raise DataError(
                f"{place.parent}: expected {len(channels)} channels of {case}, each in a file of its own, but "
                f"{some(missing)} is missing; add it, or take the case out."
            )
        if case in files:
            raise DataError(
                f"{files[case]}: expected one volume a case, found channels in files of their own besides "
                f"({place.name}); take one of them out."
            )
        grouped[case] = tuple(files[channel] for channel in channels)
    taken = {channel for channels in found.values() for channel in channels}
    return {**{name: (path,) for name, path in files.items() if name not in taken}, **grouped}


def _rename_images(images: dict[str, tuple[Path, ...]]) -> dict[str, tuple[Path, ...]]:
    renamed = {_IMAGE_ENDING.sub("", name): paths for name, paths in images.items()}
    return renamed if len(renamed) == len(images) else images


def _rename_labels(labels: dict[str, Path], images: Collection[str]) -> dict[str, Path]:
    renamed: dict[str, Path] = {}
    for label, path in labels.items():
        name = label if label in images else image_of_label(label)
        if name in renamed:
            raise DataError(f"{path}: expected one label an image, found {renamed[name].name} for {name}, too.")
        renamed[name] = path
    return renamed


def _refuse_labels_among(images: dict[str, tuple[Path, ...]]) -> None:
    """Refuse labels beside their images, which would be taken for images without a label."""
    for name, paths in images.items():
        if image_of_label(name) != name and image_of_label(name) in images:
            other = images[image_of_label(name)][0].name
            raise DataError(
                f"{paths[0]}: expected only images, found a file named as the label of {other}; put labels into a "
                "folder labels/ beside the images' folder."
            )


def _reasons(folder: Path, volumes: Sequence[tuple[str, Path]], labels: Collection[str]) -> dict[Path, str]:
    """Why some of the volumes are no images; one with a label is, unless another has its name."""
    found = reasons_below(folder, [str(path) for _, path in volumes])
    images = {name for name, path in volumes if str(path) not in found}
    labelled = {name for label in labels for name in (label, image_of_label(label))} - images
    return {
        path: found[str(path)]
        for name, path in volumes
        if str(path) in found and labelled.isdisjoint((name, _IMAGE_ENDING.sub("", name)))
    }


def _only(root: Path, reasons: Mapping[Path, str]) -> str:
    """What there is in place of images."""
    files = [path.relative_to(root).as_posix() for path in reasons]
    return f"only {' and '.join(dict.fromkeys(reasons.values()))}: {some(files)}" if files else "none"


def _by_name(volumes: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in volumes:
        if name in found:
            raise DataError(f"{path}: expected one file a name, found {found[name].name} besides; rename one of them.")
        found[name] = path
    return found


def _named_volumes(folder: Path) -> Iterator[tuple[str, Path]]:
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    if any(entry.is_file() and volume_kind(entry) == "dicom" for entry in entries):
        _refuse_loose_series(folder)
    for entry in entries:
        if entry.is_dir():
            yield from () if leads_up(entry) else _named_series(entry)
            yield from () if leads_up(entry) else _named_below(entry)
        elif volume_kind(entry):
            yield case_stem(entry.name), entry


def _named_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Other volumes below a folder, named by their whole path: a/b.png is a_b."""
    for file in sorted(folder.rglob("*")):
        inner = file.relative_to(folder.parent)
        if (
            file.is_file()
            and volume_kind(file) not in ("", "dicom")
            and not any(p.startswith(".") for p in inner.parts)
        ):
            yield case_stem(inner.as_posix().replace("/", "_")), file


def _named_series(folder: Path) -> Iterator[tuple[str, Path]]:
    """All series below a folder: a single one is named after the folder, several also by what differs."""
    below = [place for place in sorted(folder.rglob("*/")) if not leads_up(place)]
    paths = [path for place in (folder, *below) for path in list_series_paths(place)]
    for path in paths:
        inner = Path(path).relative_to(folder.parent).as_posix()
        yield (folder.name if len(paths) == 1 else case_stem(inner.replace("/", "_"))), Path(path)


def _refuse_loose_series(folder: Path) -> None:
    """Refuse several DICOM files of one series side by side, which would be taken for separate images."""
    longest = max(list_series(folder).values(), default=0)
    if longest > 1:
        raise DataError(f"{folder}: expected each DICOM series in a folder of its own, found {longest} slices of one.")
