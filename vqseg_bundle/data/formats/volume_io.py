"""Read volumes' geometry and voxels, or labels' classes, in any format, by the format's record.

All formats give axes ``(X, Y, Z)``, or ``(X, Y, Z, C)`` with channels, and an affine to RAS in mm. A 2D image is a
volume of one slice. Paths of volumes: :mod:`vqseg_bundle.data.formats.volume_path`.

Label files may have other values than the class indices 0, 1, 2, ..., such as BraTS's 0, 1, 2 and 4. The network,
metrics and DICOM SEG use only class indices: labels are translated when read, predictions when written. Without a
mapping, ``{}``, files have class indices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import DataError
from .file_format import FileFormat, VolumeHeader, corner_distance, same_grid_limit
from .table import FORMATS, find_format
from .volume_path import channel_paths, parse_volume_path

__all__ = [
    "IGNORE",
    "VolumeHeader",
    "check_ignore_last",
    "classes_of_values",
    "parse_label_values",
    "read_classes",
    "read_header",
    "read_label_values",
    "read_voxels",
    "source_files",
    "values_of_classes",
]

#: name of the class of voxels that nobody has labelled
IGNORE = "ignore"
_MOST_SHOWN = 10
_LEAST_SPACING_MM = 1e-4
_LEAST_VOLUME = 1e-6  # of a voxel, as a share of a box with the same sides at right angles
_WHOLE_WITHIN = 1e-4
_WHITE = 255
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_ignore_last(names: Sequence[str], where: str) -> None:
    """Refuse a class :data:`IGNORE` that is not the last one, which alone the network can leave out.

    DataError: it is not the last, or there are not two classes before it; ``where`` names the key.
    """
    if IGNORE in names[:-1] or (len(names) < 3 and IGNORE in names):
        raise DataError(
            f'{where}: expected "{IGNORE}" (voxels without a label) last, after two classes at least, found '
            f"{', '.join(names)}; name it last, and if label files number them otherwise, give their values in the "
            "order of the names (label_values)."
        )


def parse_label_values(given: object, count: int, where: str) -> dict[int, int]:
    """A datalist's ``label_values``, a list or mapping, as class index to value; empty if values are indices.

    DataError: there is not one whole number for each of ``count`` classes, or two share one; ``where`` names the key.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        by_index = {str(index): value for index, value in given.items()}
    else:
        by_index = {str(index): value for index, value in enumerate(given)} if isinstance(given, Sequence) else {}
    found = {index: by_index[str(index)] for index in range(count) if type(by_index.get(str(index))) is int}
    if not len(by_index) == len(found) == len(set(found.values())) == count:
        raise DataError(
            f"{where}: expected the files' value for each of {count} classes in order, such as "
            f'{[0, 1, 2, 4, 5, 6, 7][: max(count, 2)]}, or {{"0": value, "1": value, ...}}, all whole and different, '
            f"found {given!r}."
        )
    return {} if all(index == value for index, value in found.items()) else found


def classes_of_values(voxels: np.ndarray, label_values: Mapping[int, int], path: str) -> np.ndarray:
    """Class indices of a label's voxels by ``label_values``, index to value; DataError for any other value."""
    values, indices = (np.array(part) for part in zip(*sorted((v, i) for i, v in label_values.items()), strict=True))
    places = np.minimum(np.searchsorted(values, voxels), len(values) - 1)
    if (values[places] != voxels).any():
        found = np.unique(voxels)
        shown = ", ".join(f"{value:g}" for value in found[:_MOST_SHOWN].tolist())
        allowed = ", ".join(map(str, label_values.values()))
        raise DataError(f'{path}: values outside "label_values" ({allowed}): found {shown}; correct the file.')
    return indices.astype(np.min_scalar_type(int(indices.max())))[places]


def values_of_classes(classes: np.ndarray, label_values: Mapping[int, int]) -> np.ndarray:
    """The inverse of :func:`classes_of_values`, as int64."""
    values = np.zeros(max(label_values) + 1, dtype=np.int64)
    values[list(label_values)] = list(label_values.values())
    return values[classes.astype(np.int64)]


def read_header(path: str) -> VolumeHeader:
    """Read the geometry of a volume without its voxels, and check that it is complete, if its format tells.

    Raises:
        DataError: the file is missing, empty or truncated, or does not have 3 dimensions (4 with channels); DICOM
            slices do not form a volume; separate channel files are not on one grid.
    """
    channels = channel_paths(path)
    if len(channels) > 1:
        return _stacked_header(channels)
    with _readable(path):
        header = _existing_format(path).read_header(path)
    if len(header.shape) not in (3, 4) or min(header.shape) < 1:
        raise DataError(
            f"{path}: expected an image of 2 or 3 dimensions, or 4 with channels last, found shape {header.shape}; "
            "save it anew, without further axes and with at least a voxel along each."
        )
    _check_affine(path, header.affine)
    return header


def read_voxels(path: str, is_label: bool = False, label_values: Mapping[int, int] | None = None) -> np.ndarray:
    """Read the voxels in their stored type, or as float32 if the header has an intensity scale.

    ``is_label`` and ``label_values``: see :func:`read_classes`. DataError: the file is missing, empty, truncated, or
    not readable in the format of its name.
    """
    if is_label:
        return read_classes(path, label_values)[0]
    channels = channel_paths(path)
    if len(channels) > 1:
        shape = _stacked_header(channels).spatial_shape
        return np.stack([read_voxels(channel).reshape(shape) for channel in channels], axis=-1)
    with _readable(path):
        return _existing_format(path).read_voxels(path)


def read_classes(path: str, label_values: Mapping[int, int] | None = None) -> tuple[np.ndarray, bool]:
    """Read the class indices of a label, in their stored type, rounded if all are within 1e-4 of a whole number.

    Such fractions come from an intensity scale such as 1 / 255, or from an earlier computation. ``label_values``: class
    index to the file's value; None or empty if the file has class indices.

    Returns:
        The classes, and whether it is a picture's mask of 0 and 255, of which 255 was read as class 1.

    Raises:
        DataError: as for :func:`read_voxels`; or a colour mask, a JPEG mask, or a value of no class.
    """
    if label_values:
        return classes_of_values(read_label_values(path), label_values, path), False
    values, found = read_label_values(path), find_format(path)
    if found and found.masks_of_255 and values.max() == _WHITE and np.isin(values, (0, _WHITE)).all():
        return (values > 0).astype(np.uint8), True
    return values, False


def read_label_values(path: str) -> np.ndarray:
    """Read a label's stored values, rounded as in :func:`read_classes`.

    Raises:
        DataError: as for :func:`read_classes`.
    """
    found = find_format(path)
    if found is None or found.read_label is None:
        return _nearly_whole(read_voxels(path))
    with _readable(path):
        _existing_format(path)
        return _nearly_whole(found.read_label(path))


def source_files(path: str) -> list[str]:
    """The files of a volume: all slices of a DICOM series, in order, or all separate channel files.

    DataError: DICOM slices do not form a volume.
    """
    channels = channel_paths(path)
    if len(channels) > 1:
        return [file for channel in channels for file in source_files(channel)]
    found = find_format(path)
    if found is None or found.source_files is None:
        return [path]
    with _readable(path):
        return found.source_files(path)


def _stacked_header(channels: Sequence[str]) -> VolumeHeader:
    """The header of separate channel files: the first one's, once all are found to be on its grid."""
    headers = [read_header(channel) for channel in channels]
    first = headers[0]
    for channel, header in zip(channels, headers, strict=True):
        expected = f"{channel}: expected one channel on the grid of {channels[0]}"
        remedy = "a volume whose channels lie in files of their own needs them alike"
        if header.channels > 1:
            raise DataError(f"{channel}: expected one channel a file, found shape {header.shape}; {remedy}.")
        if header.spatial_shape != first.spatial_shape:
            found = f"{header.spatial_shape} voxels instead of {first.spatial_shape}"
            raise DataError(f"{expected}, found {found}; {remedy}: resample it.")
        apart = corner_distance(header.affine, first.affine, first.spatial_shape)
        if apart > same_grid_limit(first.affine):
            raise DataError(f"{expected}, found corners up to {apart:.4g} mm off; {remedy}: resample it.")
    return replace(first, shape=(*first.spatial_shape, len(channels)))


def _existing_format(path: str) -> FileFormat:
    file, found = parse_volume_path(path).file, find_format(path)
    if _CONTROLS.search(str(path)):
        raise DataError(f"{str(path)!r}: expected a name without control characters; rename the file or folder.")
    if not file.exists():
        raise DataError(f"{path}: no such file; correct the path in the datalist, or dataset_dir.")
    if not (file.is_file() or file.is_dir()):
        raise DataError(f"{path}: expected a file, found a pipe or device, which may never end; copy its content.")
    if file.is_file() and file.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; copy it again.")
    if found is None or (file.is_dir() and not found.folders):
        what = "a folder" if file.is_dir() else f"a file that ends in {''.join(Path(file).suffixes) or 'nothing'}"
        if ".img" in file.name.lower():
            what += "; of a pair name the .hdr file"
        raise DataError(f"{path}: expected {', '.join(each.title for each in FORMATS)}, found {what}; convert it.")
    return found


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (DataError, ImportError):
        raise
    except Exception as error:  # the formats' libraries raise whatever a damaged byte leads them to
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: truncated or unreadable ({reason}); copy it again.") from error


def _nearly_whole(voxels: np.ndarray) -> np.ndarray:
    if voxels.dtype.kind != "f":
        return voxels
    whole = np.rint(voxels)
    with np.errstate(invalid="ignore"):  # infinities, which are kept
        return whole if (np.abs(voxels - whole) <= _WHOLE_WITHIN).all() else voxels


def _check_affine(path: str, affine: np.ndarray) -> None:
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    expected = f"{path}: expected an affine with positive, finite voxel spacing in mm, found"
    remedy = "correct the header, or export the volume again"
    if not np.isfinite(affine).all() or (sides == 0).any():
        rows = np.array2string(affine[:3], separator=", ").replace("\n", "")
        raise DataError(f"{expected} {rows}; {remedy}.")
    if sides.min() < _LEAST_SPACING_MM:
        shown = " x ".join(np.format_float_positional(side, 4, fractional=False, trim="-") for side in sides)
        raise DataError(f"{expected} voxels of {shown} mm, so that the file is probably in metres; {remedy} in mm.")
    if abs(np.linalg.det(affine[:3, :3])) < _LEAST_VOLUME * np.prod(sides):
        rows = np.array2string(affine[:3], precision=4, separator=", ").replace("\n", "")
        raise DataError(f"{expected} axes that lie in one plane, {rows}; {remedy}.")
