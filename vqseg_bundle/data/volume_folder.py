"""The volumes of a folder, for inference without a datalist."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path, PurePath

from .case_names import case_stem, image_of_label, unique_case_ids
from .dicom_names import naming_paths
from .errors import DataError
from .formats import VOLUME_KINDS, accepts_uneven, join_volume_path, list_series, volume_kind

__all__ = ["list_series_paths", "list_volumes"]

logger = logging.getLogger(__name__)

_FLAT_KINDS = ("picture", "array")


def list_volumes(
    dataset_dir: str | Path, output_dir: str | Path | None = None, uneven_slices: str = "refuse"
) -> list[dict[str, str]]:
    """Every volume in a folder and the folders below it; hidden ones, labels and an output folder's are left out.

    A label is what lies beside another volume and is called as one of it, such as ``x_gt.nii.gz`` beside ``x.nii.gz``.
    Each DICOM series is a volume, for its files see :func:`~vqseg_bundle.data.source_files`, for its name
    :mod:`vqseg_bundle.data.dicom_names`. Pictures and NPY arrays
    count where there is nothing else: beside volumes they are previews.

    Args:
        dataset_dir: a folder, or one volume's path.
        output_dir: where predictions go, so that those of an earlier inference are not taken for images; where it is
            ``dataset_dir`` itself, its ``predictions`` and ``previous-*`` folders are left out.
        uneven_slices: "refuse" or "accept" DICOM series whose slices are not evenly spaced.

    Returns:
        cases with "image" (absolute path) and "case" (a name of its own), sorted by path.

    Raises:
        DataError: there is no such folder, or no volume in it.
        ValueError: ``uneven_slices`` is neither.
    """
    accept, root = accepts_uneven(uneven_slices), Path(dataset_dir)
    if root.is_dir():
        paths = _without_labels(_without_previews(list(_walk(root, _output_folders(root, output_dir)))))
    elif root.is_file():
        paths = [str(root.absolute())] if volume_kind(root) else []
    else:
        raise DataError(f"dataset_dir '{dataset_dir}' is neither a folder nor a file: name a folder of volumes.")
    if not paths:
        suffixes = ", ".join(suffix for kind in VOLUME_KINDS.values() for suffix in kind)
        raise DataError(
            f"dataset_dir '{dataset_dir}' holds no volume: expected files that end in {suffixes}, or folders of DICOM "
            "slices."
        )
    names = unique_case_ids(naming_paths(paths))
    if accept:
        paths = [join_volume_path(path, accept_uneven=volume_kind(path) == "dicom") for path in paths]
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


def _walk(folder: Path, left_out: set[Path]) -> Iterator[str]:
    """Absolute paths in order; a folder's series come before what lies below it."""
    if folder.resolve() in left_out:
        return
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.is_file()]
    if any(volume_kind(file) in ("", "dicom") for file in files):
        yield from list_series_paths(folder.absolute())
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry, left_out)
        elif volume_kind(entry) not in ("", "dicom"):
            yield str(entry.absolute())


def _without_previews(paths: list[str]) -> list[str]:
    volumes = [path for path in paths if volume_kind(path) not in _FLAT_KINDS]
    return volumes or paths


def _without_labels(paths: list[str]) -> list[str]:
    places = {(PurePath(path).parent, case_stem(path)): path for path in paths}
    labels = []
    for (folder, name), path in places.items():
        if image_of_label(name) != name and (folder, image_of_label(name)) in places:
            labels.append(path)
    if labels:
        logger.info(
            "%d files are called as labels of files beside them and left out, such as %s", len(labels), labels[0]
        )
    return [path for path in paths if path not in set(labels)]


def _output_folders(root: Path, output_dir: str | Path | None) -> set[Path]:
    if output_dir is None:
        return set()
    output = Path(output_dir).resolve()
    if output != root.resolve() and output not in root.resolve().parents:
        return {output}
    return {output / "predictions", *output.glob("previous-*")}
