"""A DICOM series as a volume: slices in the order of their positions, intensities rescaled (CT: Hounsfield units).

Slices are ordered by their position along the normal of the image plane (DICOM PS3.3 C.7.6.2.1.1), not by
InstanceNumber, which scanners and anonymisers set as they please. Axes are columns, rows, slices, as ITK has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.data.utils import orientation_ras_lps

from ..errors import DataError
from .dicom_slices import DicomSlice, choose_slices
from .volume_header import VolumeHeader
from .volume_path import parse_volume_path

try:
    from pydicom.pixels import apply_rescale
except ImportError:  # pydicom 2, which MONAI Label's server needs
    from pydicom.pixel_data_handlers.util import apply_modality_lut as apply_rescale  # type: ignore[no-redef]

__all__ = ["read_dicom", "read_dicom_header", "series_files"]

_UNEVEN = 0.05  # share of the slice distance that a gap may differ by
_ANGLE = 1e-3  # of direction cosines
_SAME_PLACE = 1e-3  # mm
_ALIKE = {"Rows": 0.0, "Columns": 0.0, "PixelSpacing": 1e-4, "ImageOrientationPatient": _ANGLE}
_MOST_SHOWN = 3


def read_dicom_header(path: str) -> VolumeHeader:
    """Read the geometry of a series, and see that its slices make a volume.

    Raises:
        DataError: see :func:`series_files`.
    """
    return _header(_volume_slices(path))


def series_files(path: str) -> list[str]:
    """The files of a series, from the first slice of the volume to the last.

    Args:
        path: a folder, ``FOLDER#UID`` or a file, see :mod:`vqseg_bundle.data.formats.volume_path`.

    Raises:
        DataError: there is no such series, or several; slices differ in size, spacing or direction, lack a position,
            share one, or are unevenly spaced (which the path may accept); frames, colours or grey scales that are not
            read.
    """
    return [item.file for item in _volume_slices(path)]


def read_dicom(path: str) -> np.ndarray:
    """Read ``(columns, rows, slices)`` as float32, with RescaleSlope and RescaleIntercept or a modality LUT applied.

    Raises:
        DataError: see :func:`series_files`; or the pixels cannot be decoded.
    """
    return np.stack([_pixels(file) for file in series_files(path)], axis=-1)


def _pixels(file: str) -> np.ndarray:
    try:
        dataset = pydicom.dcmread(file)
        return np.asarray(apply_rescale(dataset.pixel_array, dataset), dtype=np.float32).T
    except (OSError, EOFError, ValueError, AttributeError, RuntimeError, KeyError) as error:
        raise DataError(
            f"{file}: the pixels cannot be decoded ({error}); copy the file again, or for a compressed one "
            'pip install "pylibjpeg[all]", or decompress it.'
        ) from error


def _volume_slices(path: str) -> list[DicomSlice]:
    place = parse_volume_path(path)
    slices = choose_slices(place)
    for item in slices:
        _check_readable(item)
    if len(slices) == 1:
        return slices
    _check_alike(place.file, slices)
    positions = np.array([_position(item) for item in slices])
    order = np.argsort(positions, kind="stable")
    slices = [slices[index] for index in order]
    _check_distinct(place.file, slices, positions[order])
    if not place.accept_uneven:
        _check_gaps(place.file, slices, positions[order])
    return slices


def _check_readable(item: DicomSlice) -> None:
    dataset = item.dataset
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise DataError(
            f"{item.file}: expected a slice a file, found {dataset.NumberOfFrames} frames in one (enhanced DICOM); "
            "convert it to NIfTI, with dcm2niix for example."
        )
    kind = dataset.get("PhotometricInterpretation", "MONOCHROME2")
    if kind != "MONOCHROME2":
        raise DataError(
            f"{item.file}: expected grey values that rise with brightness (MONOCHROME2), found {kind}; convert the "
            "images, to PNG for example."
        )


def _check_alike(folder: Path, slices: Sequence[DicomSlice]) -> None:
    first = slices[0]
    for item in slices:
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            if item.dataset.get(name) is None:
                raise DataError(f"{item.file}: expected {name} in each of several slices, found none; leave it out.")
    for name, tolerance in _ALIKE.items():
        expected = np.asarray(first.dataset[name].value, dtype=np.float64)
        for item in slices:
            found = np.asarray(item.dataset[name].value, dtype=np.float64)
            if np.abs(found - expected).max() > tolerance:
                raise DataError(
                    f"{folder}: expected slices of one {name}, found {expected.tolist()} in {_name(first)} and "
                    f"{found.tolist()} in {_name(item)}; put them into folders of their own."
                )


def _check_distinct(folder: Path, slices: Sequence[DicomSlice], positions: np.ndarray) -> None:
    twice = np.flatnonzero(np.diff(positions) < _SAME_PLACE)
    if len(twice):
        pairs = ", ".join(f"{_name(slices[i])} and {_name(slices[i + 1])}" for i in twice[:_MOST_SHOWN])
        raise DataError(
            f"{folder}: expected one slice a position, found {len(twice)} taken twice: {pairs}; several "
            "phases, echoes or copies: put each into a folder of its own."
        )


def _check_gaps(folder: Path, slices: Sequence[DicomSlice], positions: np.ndarray) -> None:
    gaps = np.diff(positions)
    usual = float(np.median(gaps))
    uneven = np.flatnonzero(np.abs(gaps - usual) > _UNEVEN * usual)
    if not len(uneven):
        return
    texts = [
        f"{gaps[i]:.4g} mm between {_name(slices[i])} and {_name(slices[i + 1])}{_lost(gaps[i] / usual)}"
        for i in uneven[:_MOST_SHOWN]
    ]
    more = f" and {len(uneven) - _MOST_SHOWN} more" if len(uneven) > _MOST_SHOWN else ""
    raise DataError(
        f"{folder}: expected slices {usual:.4g} mm apart, found {'; '.join(texts)}{more}; add the missing slices, "
        "resample the volume, or take it as evenly spaced by uneven_slices accept."
    )


def _lost(ratio: float) -> str:
    missing = round(ratio) - 1
    if missing < 1 or abs(ratio - round(ratio)) > 0.1:
        return ""
    return f" ({missing} {'slice' if missing == 1 else 'slices'} missing)"


def _header(slices: Sequence[DicomSlice]) -> VolumeHeader:
    """PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1, with the mean step from slice to slice; from LPS to RAS."""
    first, last = slices[0].dataset, slices[-1].dataset
    row_step, column_step = (float(v) for v in first.get("PixelSpacing") or first.get("ImagerPixelSpacing") or (1, 1))
    across, down, normal = _directions(first)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across * column_step, down * row_step
    affine[:3, 2] = normal * float(first.get("SliceThickness") or 1.0)
    origin = _vector(first.get("ImagePositionPatient") or (0.0, 0.0, 0.0))
    if len(slices) > 1:
        affine[:3, 2] = (_vector(last.ImagePositionPatient) - origin) / (len(slices) - 1)
    affine[:3, 3] = origin
    shape = (int(first.Columns), int(first.Rows), len(slices))
    return VolumeHeader(shape, np.asarray(orientation_ras_lps(affine)))


def _position(item: DicomSlice) -> float:
    return float(_directions(item.dataset)[2] @ _vector(item.dataset.ImagePositionPatient))


def _directions(dataset: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors along a row, down a column, and across the image, LPS."""
    cosines = _vector(dataset.get("ImageOrientationPatient") or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    return cosines[:3], cosines[3:], np.cross(cosines[:3], cosines[3:])


def _vector(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _name(item: DicomSlice) -> str:
    return Path(item.file).name
