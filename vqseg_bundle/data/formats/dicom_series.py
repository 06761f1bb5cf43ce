"""A DICOM series as a volume: slices ordered by position, intensities rescaled (CT: Hounsfield units).

Slices are ordered by their position along the normal of the image plane (DICOM PS3.3 C.7.6.2.1.1), not by
InstanceNumber, which scanners and anonymisers set arbitrarily. Axes are columns, rows, slices, as in ITK. Directions
and pixel spacing are means over the slices, since the last digits differ in some series.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.data.utils import orientation_ras_lps

from ..errors import DataError
from .dicom_file import DicomSlice
from .dicom_pixels import read_pixels
from .dicom_readable import check_readable
from .dicom_slices import SUFFIXES, choose_slices
from .file_format import FileFormat, VolumeHeader
from .volume_path import parse_volume_path

__all__ = ["DICOM", "order_slices", "series_files", "slices_header"]

_UNEVEN = 0.05  # share of the slice distance that a gap may differ by
_BESIDE = 0.5  # of a pixel by which a slice may be off the line through the others
_ANGLE = 2e-3  # of direction cosines, from their mean: a tenth of a degree
_SPACING = 5e-4  # share of the mean spacing: a quarter of a pixel at the border of 512
_ORTHONORMAL = 0.05  # tolerance of lengths and right angles: cosines are written with few digits
_SAME_PLACE = 1e-3  # mm
_MOST_SHOWN = 3
_NO_SPACING = "does not state PixelSpacing; pixels of 1 mm are assumed"
_NO_COSINES = "does not state ImageOrientationPatient; an axial slice is assumed"


def _read_header(path: str) -> VolumeHeader:
    """Geometry of a series whose slices make a volume, see :func:`series_files`."""
    return slices_header(_volume_slices(path))


def series_files(path: str) -> list[str]:
    """The files of a series (a folder, ``FOLDER#UID`` or a file), from the first slice of the volume to the last.

    Raises:
        DataError: there is no such series, or several; a file is empty, cut or damaged; slices differ in size, spacing
            or direction, lack a position, share one, are unevenly spaced (which the path may accept) or lie beside each
            other; frames or colours are not read.
    """
    return [item.file for item in _volume_slices(path)]


def _read_voxels(path: str) -> np.ndarray:
    """Read ``(columns, rows, slices)`` as float32, see :func:`read_pixels`."""
    return read_pixels(_volume_slices(path))


def order_slices(slices: Sequence[DicomSlice]) -> list[DicomSlice]:
    """Order slices by their positions along the normal; each must have one."""
    return [slices[index] for index in np.argsort(_positions(slices), kind="stable")]


def slices_header(slices: Sequence[DicomSlice]) -> VolumeHeader:
    """Geometry of slices in order: PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1, with the mean step; from LPS to RAS.

    With a tilted gantry the steps are not perpendicular to the slices, and the affine has shear.
    """
    first, last = slices[0], slices[-1]
    row_step, column_step = _mean_spacing(slices)
    across, down, normal = _directions(slices)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across * column_step, down * row_step
    affine[:3, 2] = normal * (first.thickness or 1.0)
    origin = np.array(first.position or (0.0, 0.0, 0.0))
    if len(slices) > 1:
        affine[:3, 2] = (np.array(last.position) - origin) / (len(slices) - 1)
    affine[:3, 3] = origin
    shape = (first.columns, first.rows, len(slices))
    unsaid = [text for value, text in ((first.spacing, _NO_SPACING), (first.cosines, _NO_COSINES)) if value is None]
    return VolumeHeader(shape, np.asarray(orientation_ras_lps(affine)), notes=tuple(unsaid), modality=first.modality)


def _volume_slices(path: str) -> list[DicomSlice]:
    place = parse_volume_path(path)
    slices = choose_slices(place)
    for item in slices:
        check_readable(item)
    _check_cosines(place.file, slices)
    if len(slices) == 1:
        return slices
    _check_alike(place.file, slices)
    slices = order_slices(slices)
    positions = _positions(slices)
    _check_distinct(place.file, slices, positions)
    if not place.accept_uneven:
        _check_gaps(place.file, slices, positions)
        _check_line(place.file, slices)
    return slices


def _check_cosines(folder: Path, slices: Sequence[DicomSlice]) -> None:
    for item in slices:
        if item.cosines is None:
            continue
        cosines = np.array(item.cosines).reshape(2, 3)
        if np.abs(cosines @ cosines.T - np.eye(2)).max() > _ORTHONORMAL:
            raise DataError(
                f"{folder}: expected ImageOrientationPatient of two unit vectors at a right angle, found "
                f"{list(item.cosines)} in {_name(item)}; export the series again."
            )


def _check_alike(folder: Path, slices: Sequence[DicomSlice]) -> None:
    for item in slices:
        given = {
            "ImagePositionPatient": item.position,
            "ImageOrientationPatient": item.cosines,
            "PixelSpacing": item.spacing,
        }
        for name, value in given.items():
            if value is None:
                raise DataError(f"{item.file}: expected {name} in each of several slices, found none; leave it out.")
    _check_one_text(folder, slices, "PatientID", [item.labels.patient for item in slices])
    _check_one_text(folder, slices, "StudyInstanceUID", [item.study_uid for item in slices])
    _check_one_text(folder, slices, "PhotometricInterpretation", [item.photometric for item in slices])
    _check_rescaling(slices)
    _check_frames(folder, slices)
    _check_one(folder, slices, "Rows", np.array([[item.rows] for item in slices]), 0.0)
    _check_one(folder, slices, "Columns", np.array([[item.columns] for item in slices]), 0.0)
    spacings = np.array([item.spacing for item in slices])
    _check_one(folder, slices, "PixelSpacing", spacings, _SPACING * float(np.abs(spacings.mean(axis=0)).min()))
    _check_one(folder, slices, "ImageOrientationPatient", np.array([item.cosines for item in slices]), _ANGLE)


def _check_rescaling(slices: Sequence[DicomSlice]) -> None:
    """A slice that lacks what the others state would be off by it, in CT mostly by 1024 HU."""
    stated = {name for item in slices for name in item.rescaling}
    for item in slices:
        if missing := sorted(stated - set(item.rescaling)):
            raise DataError(
                f"{item.file}: expected {' and '.join(missing)} as in other slices of its series, found none; export "
                "the series again."
            )


def _check_frames(folder: Path, slices: Sequence[DicomSlice]) -> None:
    """Positions in two frames of reference are not comparable; where no slice names one, they are taken to be."""
    first = {item.frame: item for item in reversed(slices)}
    if len(first) < 2:
        return
    if "" in first:
        raise DataError(
            f"{first[''].file}: expected FrameOfReferenceUID as in other slices of its series, found none; export the "
            "series again."
        )
    found = " and ".join(f"{uid} in {_name(item)}" for uid, item in sorted(first.items())[:2])
    raise DataError(
        f"{folder}: expected slices of one FrameOfReferenceUID, found {found}, whose positions are not comparable; put "
        "them into folders of their own."
    )


def _check_one_text(folder: Path, slices: Sequence[DicomSlice], name: str, texts: Sequence[str]) -> None:
    """Refuse two texts, unless each slice has its own, as careless anonymisation gives it; some may have none."""
    first = {text: item for text, item in zip(reversed(texts), reversed(slices), strict=True) if text}
    if 1 < len(first) < max(len(slices), 3):
        found = " and ".join(f"{text} in {_name(item)}" for text, item in sorted(first.items())[:2])
        raise DataError(f"{folder}: expected slices of one {name}, found {found}; put them into folders of their own.")


def _check_one(folder: Path, slices: Sequence[DicomSlice], name: str, values: np.ndarray, tolerance: float) -> None:
    """Check that values ``(slices, numbers)`` agree with their mean; otherwise name the two slices farthest apart."""
    if np.abs(values - values.mean(axis=0)).max() <= tolerance:
        return
    axis = np.ptp(values, axis=0).argmax()
    low, high = (int(place) for place in (values[:, axis].argmin(), values[:, axis].argmax()))
    raise DataError(
        f"{folder}: expected slices of one {name}, found {values[low].tolist()} in {_name(slices[low])} and "
        f"{values[high].tolist()} in {_name(slices[high])}; put them into folders of their own."
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
        _check_drift(folder, slices, positions)
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


def _check_drift(folder: Path, slices: Sequence[DicomSlice], positions: np.ndarray) -> None:
    """Refuse small differences between gaps that add up to half a gap."""
    even = np.linspace(positions[0], positions[-1], len(positions))
    worst = int(np.abs(positions - even).argmax())
    if abs(positions[worst] - even[worst]) > abs(even[-1] - even[0]) / max(1, len(even) - 1) / 2:
        raise DataError(
            f"{folder}: expected slices that lie evenly, found {_name(slices[worst])} "
            f"{abs(positions[worst] - even[worst]):.4g} mm from its place between the first and the last; resample the "
            "volume, or take it as evenly spaced by uneven_slices accept."
        )


def _lost(ratio: float) -> str:
    missing = round(ratio) - 1
    if missing < 1 or abs(ratio - round(ratio)) > 0.1:
        return ""
    return f" ({missing} {'slice' if missing == 1 else 'slices'} missing)"


def _check_line(folder: Path, slices: Sequence[DicomSlice]) -> None:
    """Check that the first pixels are on a line, at any angle, since an affine describes only such slices."""
    positions = np.array([item.position for item in slices])
    line = np.linspace(positions[0], positions[-1], len(slices))
    across, down, _ = _directions(slices)
    beside = np.abs((positions - line) @ np.stack([across, down], axis=1)).max(axis=1)
    worst = int(beside.argmax())
    if beside[worst] > _BESIDE * min(_mean_spacing(slices)):
        raise DataError(
            f"{folder}: expected slices one behind the other, found {_name(slices[worst])} {beside[worst]:.4g} mm "
            "beside the line through the first and the last; resample the volume, or put it into a folder of its own."
        )


def _positions(slices: Sequence[DicomSlice]) -> np.ndarray:
    """Positions along the normal, mm."""
    return np.array([item.position for item in slices]) @ _directions(slices)[2]


def _mean_spacing(slices: Sequence[DicomSlice]) -> tuple[float, float]:
    """Spacing of rows and of columns, mm."""
    rows, columns = np.mean([item.spacing or (1.0, 1.0) for item in slices], axis=0)
    return float(rows), float(columns)


def _directions(slices: Sequence[DicomSlice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors along a row, down a column, and across the image, LPS: the orthonormal ones nearest to the mean."""
    cosines = np.mean([item.cosines or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0) for item in slices], axis=0).reshape(2, 3)
    left, _, right = np.linalg.svd(cosines, full_matrices=False)
    across, down = left @ right
    return across, down, np.cross(across, down)


def _name(item: DicomSlice) -> str:
    return Path(item.file).name


DICOM = FileFormat("dicom", "DICOM", SUFFIXES, _read_header, _read_voxels, source_files=series_files, folders=True)
