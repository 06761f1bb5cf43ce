"""The volumes of a folder, for inference without a datalist."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from pathlib import Path, PurePath

from ..errors import DataError, file_list
from ..formats import VOLUME_KINDS, accepts_uneven, join_volume_path, parse_volume_path, volume_kind
from .case_names import case_stem, image_of_label, is_label_name, unique_case_ids
from .channel_files import case_of_channel, gather_channels
from .dicom_names import naming_paths
from .folder_walk import list_series_paths, walk_volumes

__all__ = ["list_series_paths", "list_volumes"]

logger = logging.getLogger(__name__)

_FLAT_KINDS = ("picture", "array")
_PREDICTION_ENDING = re.compile(r"[_-](pred|prediction)$")


def list_volumes(dataset_dir: str | Path, uneven_slices: str = "refuse", in_channels: int = 1) -> list[dict[str, str]]:
    """Every volume in a folder and the folders below it, but for what is no image to segment.

    Left out, and said in the log to be: folders below that are called as those of labels or of earlier results
    (``labels``, ``masks``, ``predictions``, ``previous-*`` and the like); a file called as the label of another beside
    it, such as ``x_gt.nii.gz`` beside ``x.nii.gz`` or ``x_ct.nii.gz``, and ``segmentation.nii.gz`` beside any; a file
    called as a prediction of another anywhere below; pictures and NPY arrays beside volumes, which are previews; what
    cannot be read; links to what is there already. Each DICOM series is a volume, for its files see
    :func:`~vqseg_bundle.data.source_files`, for its name :mod:`vqseg_bundle.data.layouts.dicom_names`.

    Args:
        dataset_dir: a folder, or one volume's path.
        uneven_slices: "refuse" or "accept" DICOM series whose slices are not evenly spaced.
        in_channels: channels of the model, for those in files of their own, see
            :func:`~vqseg_bundle.data.layouts.channel_files.gather_channels`.

    Returns:
        cases with "image" (absolute path) and "case" (a name of its own), sorted by path.

    Raises:
        DataError: there is no such folder, or no volume in it to segment.
        ValueError: ``uneven_slices`` is neither.
    """
    accept, root = accepts_uneven(uneven_slices), Path(dataset_dir)
    left_out: dict[str, list[str]] = defaultdict(list)
    if root.is_dir():
        paths = _without_labels(_without_previews(walk_volumes(root, left_out), left_out), left_out)
    elif root.is_file():
        paths = [str(root.absolute())] if volume_kind(root) else []
    else:
        raise DataError(f"dataset_dir '{dataset_dir}' is neither a folder nor a file: name a folder of volumes.")
    said = [f"{reason}: {file_list(found)}" for reason, found in left_out.items()]
    if not paths:
        raise DataError(_nothing_to_segment(root, said))
    for text in said:
        logger.info("left out as %s", text)
    named = gather_channels(paths, in_channels)
    names, paths = unique_case_ids(naming_paths(list(named.values()))), list(named)
    if accept:
        paths = [join_volume_path(path, accept_uneven=True) if volume_kind(path) == "dicom" else path for path in paths]
    return [{"image": path, "case": case} for path, case in zip(paths, names, strict=True)]


def _nothing_to_segment(root: Path, left_out: list[str]) -> str:
    suffixes = ", ".join(suffix for kind in VOLUME_KINDS.values() for suffix in kind)
    expected = f"expected files that end in {suffixes}, or folders of DICOM slices"
    if root.is_file():
        return f"dataset_dir '{root}' is no volume: {expected}; name such a file, or a folder of them."
    if left_out:
        return (
            f"dataset_dir '{root}' holds no volume to segment: {expected}. Left out as {'; '.join(left_out)}. "
            "To segment one of these folders, name it itself."
        )
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in root.iterdir())
    return (
        f"dataset_dir '{root}' holds no volume to segment: {expected}, found {file_list(names) or 'nothing'}. "
        "Name the folder that holds the images."
    )


def _without_previews(paths: list[str], left_out: dict[str, list[str]]) -> list[str]:
    volumes = [path for path in paths if volume_kind(path) not in _FLAT_KINDS]
    if volumes and len(volumes) < len(paths):
        left_out["previews of the volumes beside them"] += [path for path in paths if volume_kind(path) in _FLAT_KINDS]
    return volumes or paths


def _without_labels(paths: list[str], left_out: dict[str, list[str]]) -> list[str]:
    places = {(PurePath(path).parent, case_stem(path)) for path in paths}
    places |= {(folder, case_of_channel(name)) for folder, name in places}
    names = {name for _, name in places}
    beside = _images_by_folder(paths)
    kept = []
    for path in paths:
        name = case_stem(path)
        image, segmented = image_of_label(name), _PREDICTION_ENDING.sub("", name)
        folder = PurePath(path).parent
        others = beside[folder]
        by_ending = image != name and ((folder, image) in places or any(_is_of(image, other) for other in others))
        if by_ending or (others and is_label_name(name)):
            left_out["labels of files beside them, by their names"].append(path)
        elif segmented != name and segmented in names:
            left_out["predictions of other files, by their names"].append(path)
        else:
            kept.append(path)
    return kept


def _images_by_folder(paths: list[str]) -> dict[PurePath, list[str]]:
    """Names of what is not called as a label; a DICOM series lies in its folder."""
    found: dict[PurePath, list[str]] = defaultdict(list)
    for path in paths:
        name = case_stem(path)
        if volume_kind(path) == "dicom":
            found[PurePath(parse_volume_path(path).file)].append(name)
        if not is_label_name(name) and image_of_label(name) == name:
            found[PurePath(path).parent].append(name)
    return found


def _is_of(stem: str, name: str) -> bool:
    """Whether a name goes on after the stem of a label: p1_ct beside p1_seg, but not p10."""
    return name.startswith(stem) and not name[len(stem) : len(stem) + 1].isalnum()
