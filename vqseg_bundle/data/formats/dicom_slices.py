"""The image slices of a DICOM folder, told apart by series; anything else in the folder is left aside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.misc import is_dicom

from ..errors import DataError
from .volume_path import VolumePath

__all__ = ["DicomSlice", "choose_slices", "list_series"]

_NOT_IMAGES = ("SEG", "SR", "PR", "KO", "REG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "DOC", "FID", "M3D")
_TAGS = [
    "SeriesInstanceUID",
    "SeriesDescription",
    "Modality",
    "ImageType",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
]


@dataclass(frozen=True)
class DicomSlice:
    """A file with one image.

    Args:
        file: its path.
        dataset: its attributes, without pixels.
    """

    file: str
    dataset: Any


def list_series(folder: str | Path) -> dict[str, int]:
    """SeriesInstanceUID and number of slices of each series of images in a folder, in the order of the UIDs.

    Localizers (by their ImageType) count only where there is nothing else; folders within are not looked into.

    Args:
        folder: a folder; one without DICOM files has no series.

    Raises:
        DataError: a DICOM file is broken.
    """
    return {uid: len(slices) for uid, slices in _by_series(_read_folder(Path(folder))).items()}


def choose_slices(path: VolumePath) -> list[DicomSlice]:
    """The slices of one series, in no order; of a path to a single file that file alone.

    Raises:
        DataError: there is no DICOM image, no such series, or several and none is named.
    """
    series = _by_series(_read_folder(path.file) if path.file.is_dir() else _read_files([path.file]))
    if not series:
        raise DataError(
            f"{path.file}: expected a volume file, or a folder of DICOM slices, found "
            + ("a folder without DICOM images." if path.file.is_dir() else "a DICOM file without an image.")
        )
    if path.series_uid and path.series_uid not in series:
        raise DataError(f"{path.file}: no DICOM series {path.series_uid}; found {_describe(series)}.")
    if not path.series_uid and len(series) > 1:
        raise DataError(
            f"{path.file}: expected one DICOM series, found {len(series)}: {_describe(series)}. Name one of them: "
            f'"{path.file.name}#UID" as the path, or "series": "UID" beside it in the datalist.'
        )
    return series[path.series_uid or next(iter(series))]


def _read_folder(folder: Path) -> list[DicomSlice]:
    return _read_files(
        [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")], optional=True
    )


def _read_files(files: Sequence[Path], optional: bool = False) -> list[DicomSlice]:
    """Datasets with an image; where ``optional``, files that are not DICOM are passed over."""
    found = []
    for file in files:
        if optional and not is_dicom(file):
            continue
        try:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
        except (InvalidDicomError, OSError, EOFError, ValueError) as error:
            raise DataError(f"{file}: expected a DICOM file, but it cannot be read: {error}; copy it again.") from error
        if dataset.get("Modality") not in _NOT_IMAGES and dataset.get("Rows") and dataset.get("Columns"):
            found.append(DicomSlice(str(file), dataset))
    return found


def _by_series(slices: Sequence[DicomSlice]) -> dict[str, list[DicomSlice]]:
    kept = [item for item in slices if "LOCALIZER" not in (item.dataset.get("ImageType") or [])] or slices
    series: dict[str, list[DicomSlice]] = defaultdict(list)
    for item in kept:
        series[str(item.dataset.get("SeriesInstanceUID", ""))].append(item)
    return dict(sorted(series.items()))


def _describe(series: dict[str, list[DicomSlice]]) -> str:
    texts = []
    for uid, slices in series.items():
        first = slices[0].dataset
        name = f'"{first.SeriesDescription}", ' if first.get("SeriesDescription") else ""
        texts.append(f"{uid} ({first.get('Modality', 'unknown modality')}, {name}{len(slices)} slices)")
    return "; ".join(texts)
