"""Whether a DICOM slice is one that can be read with its right values."""

from __future__ import annotations

from ..errors import DataError
from .dicom_file import DicomSlice

__all__ = ["check_readable"]


def check_readable(item: DicomSlice) -> None:
    """Check what holds for each slice of a series.

    Args:
        item: the slice.

    Raises:
        DataError: it is many slices, has no grey values, no positive spacing, or its values would come out wrong.
    """
    if item.frames > 1 or item.enhanced:
        found = f"{item.frames} frames in one" if item.frames > 1 else "one whose geometry lies in groups of frames"
        raise DataError(
            f"{item.file}: expected a slice a file, found {found} (enhanced DICOM); "
            "convert it to NIfTI, with dcm2niix for example."
        )
    if item.mosaic:
        raise DataError(
            f"{item.file}: expected a slice a file, found many side by side in one (MOSAIC in ImageType); convert it "
            "to NIfTI, with dcm2niix for example."
        )
    if item.spacing and min(item.spacing) <= 0:
        raise DataError(
            f"{item.file}: expected positive voxel spacing (PixelSpacing), found {list(item.spacing)}; export the "
            "series again."
        )
    if item.flat:
        raise DataError(
            f"{item.file}: expected a RescaleSlope other than 0, found 0, by which all its values would be the same; "
            "export the series again."
        )
    if item.odd_rescaling:
        raise DataError(
            f"{item.file}: expected a number, with a decimal point, found {item.odd_rescaling}; correct it in all "
            "files of the series, or export the series again."
        )
    if item.left_bits:
        high, stored = item.left_bits
        raise DataError(
            f"{item.file}: expected pixels in the lowest bits, HighBit {stored - 1} with BitsStored {stored}, found "
            f"HighBit {high}, with which they would be read as other values; export the series again."
        )
    if item.photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(
            f"{item.file}: expected grey values (MONOCHROME1 or MONOCHROME2), found {item.photometric}; convert the "
            "images, to PNG for example."
        )
