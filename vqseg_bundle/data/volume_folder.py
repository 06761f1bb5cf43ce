"""The volumes of a folder, for inference without a datalist."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePath

from .case_names import case_stem, image_of_label, unique_case_ids
from .channel_files import case_of_channel, gather_channels
from .dicom_names import naming_paths
from .errors import DataError, file_list
from .formats import VOLUME_KINDS, accepts_uneven, join_volume_path, list_series, volume_kind

__all__ = ["list_series_paths", "list_volumes"]

logger = logging.getLogger(__name__)

_FLAT_KINDS = ("picture", "array")
_RESULT_FOLDERS = ("predictions",)
_LABEL_FOLDERS = (
    *("label", "labels", "labelstr", "labelsts", "labelsval", "mask", "masks", "seg", "segs", "segmentation"),
    *("segmentations", "annotation", "annotations", "gt", "ground_truth", "groundtruth", "ground-truth"),
)
_PREDICTION_ENDING = re.compile(r"[_-](pred|prediction)$")


def list_volumes(
    dataset_dir: str | Path,
    output_dir: str | Path | None = None,
    uneven_slices: str = "refuse",
    in_channels: int = 1,
) -> list[dict[str, str]]:
    """Every volume in a folder and the folders below it, but for what is no image to segment.

    Left out, and said in the log to be: folders below that are called as those of labels or of earlier results
    (``labels``, ``masks``, ``predictions``, ``previous-*`` and the like); what lies beside another volume and is called
    as its label or prediction, such as ``x_gt.nii.gz`` beside ``x.nii.gz``; pictures and NPY arrays beside volumes,
    which are previews; folders that cannot be read. Hidden files and the output folder are passed over, and a folder
    that links lead to again counts once. Each DICOM series is a volume, for its files see
    :func:`~vqseg_bundle.data.source_files`, for its name :mod:`vqseg_bundle.data.dicom_names`.

    Args:
        dataset_dir: a folder, or one volume's path.
        output_dir: where results go, so that those of an earlier run are not taken for images.
        uneven_slices: "refuse" or "accept" DICOM series whose slices are not evenly spaced.
        in_channels: channels of the model, for those in files of their own, see
            :func:`~vqseg_bundle.data.channel_files.gather_channels`.

    Returns:
        cases with "image" (absolute path) and "case" (a name of its own), sorted by path.

    Raises:
        DataError: there is no such folder, or no volume in it to segment.
        ValueError: ``uneven_slices`` is neither.
    """
    accept, root = accepts_uneven(uneven_slices), Path(dataset_dir)
    left_out: dict[str, list[str]] = defaultdict(list)
    if root.is_dir():
        paths = list(_walk(root, _output_folder(root, output_dir), {root.resolve()}, left_out))
        paths = _without_labels(_without_previews(paths, left_out), left_out)
    elif root.is_file():
        paths = [str(root.absolute())] if volume_kind(root) else []
    else:
        raise DataError(f"dataset_dir '{dataset_dir}' is neither a folder nor a file: name a folder of volumes.")
    said = [f"{reason}: {file_list(found)}" for reason, found in left_out.items()]
    if not paths:
        suffixes = ", ".join(suffix for kind in VOLUME_KINDS.values() for suffix in kind)
        raise DataError(
            f"dataset_dir '{dataset_dir}' holds no volume to segment: expected files that end in {suffixes}, or "
            "folders of DICOM slices."
            + (f" Left out as {'; '.join(said)}. To segment one of these folders, name it itself." if said else "")
        )
    for text in said:
        logger.info("left out as %s", text)
    named = gather_channels(paths, in_channels)
    names, paths = unique_case_ids(naming_paths(list(named.values()))), list(named)
    if accept:
        paths = [join_volume_path(path, accept_uneven=True) if volume_kind(path) == "dicom" else path for path in paths]
    return [{"image": path, "case": case} for path, case in zip(paths, names, strict=True)]


def list_series_paths(folder: Path) -> list[str]:
    """Paths of the DICOM series in a folder itself: the folder where there is one, else ``FOLDER#UID`` for each.

    Raises:
        DataError: a DICOM file is broken.
    """
    series = list_series(folder)
    if len(series) < 2:
        return [str(folder)] * len(series)
    return [join_volume_path(folder, uid) for uid in series]


def _walk(folder: Path, output: Path | None, seen: set[Path], left_out: dict[str, list[str]]) -> Iterator[str]:
    """Absolute paths in order; a folder's series come before what lies below it."""
    try:
        entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    except OSError as error:
        left_out[f"folders that cannot be read ({error.strerror})"].append(str(folder))
        return
    files = [entry for entry in entries if entry.is_file()]
    if any(volume_kind(file) in ("", "dicom") for file in files):
        yield from list_series_paths(folder.absolute())
    for entry in entries:
        if entry.is_dir():
            reason = _why_not(entry)
            place = entry.resolve()
            if place == output or place in seen:
                continue
            seen.add(place)
            if reason:
                left_out[reason].append(str(entry))
            else:
                yield from _walk(entry, output, seen, left_out)
        elif volume_kind(entry) not in ("", "dicom"):
            yield str(entry.absolute())


def _why_not(folder: Path) -> str:
    """What a folder holds by its name, where that is nothing to segment; else empty."""
    name = folder.name.casefold()
    if name in _RESULT_FOLDERS or name.startswith("previous-"):
        return "results of earlier runs"
    return "labels" if name in _LABEL_FOLDERS else ""


def _without_previews(paths: list[str], left_out: dict[str, list[str]]) -> list[str]:
    volumes = [path for path in paths if volume_kind(path) not in _FLAT_KINDS]
    if volumes and len(volumes) < len(paths):
        left_out["previews of the volumes beside them"] += [path for path in paths if volume_kind(path) in _FLAT_KINDS]
    return volumes or paths


def _without_labels(paths: list[str], left_out: dict[str, list[str]]) -> list[str]:
    places = {(PurePath(path).parent, case_stem(path)) for path in paths}
    places |= {(folder, case_of_channel(name)) for folder, name in places}
    kept = []
    for path in paths:
        name = case_stem(path)
        of = {image_of_label(name), _PREDICTION_ENDING.sub("", name)} - {name}
        if any((PurePath(path).parent, image) in places for image in of):
            left_out["labels or predictions of files beside them, by their names"].append(path)
        else:
            kept.append(path)
    return kept


def _output_folder(root: Path, output_dir: str | Path | None) -> Path | None:
    """The output folder, where it does not hold the images; its own folders of results are left out by their names."""
    if output_dir is None:
        return None
    output = Path(output_dir).resolve()
    return None if output == root.resolve() or output in root.resolve().parents else output
