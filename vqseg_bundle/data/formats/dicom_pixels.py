"""The grey values of a DICOM series: decoded, in the modality's unit, with padding set to the darkest value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vqseg_bundle.common import LateModule

from ..errors import DataError
from .dicom_file import DicomSlice, error_reason

if TYPE_CHECKING:
    import pydicom
else:
    pydicom = LateModule("pydicom", "dicom")

__all__ = ["read_pixels"]

_IMPLICIT, _EXPLICIT, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
#: modalities whose values are quantities (HU, activity), of which MONOCHROME1 only changes the display
_QUANTITIES = ("CT", "PT")


def read_pixels(slices: Sequence[DicomSlice]) -> np.ndarray:
    """Read ``(columns, rows, slices)`` as float32, with RescaleSlope and RescaleIntercept or a modality LUT applied.

    - Pixels of PixelPaddingValue (to PixelPaddingRangeLimit) are no measurements (PS3.3 C.7.5.1.1.2). They get the
      smallest other value, so that they stretch neither a window nor a percentile. Where others lie on both sides of
      them, the tag is taken for a mistake and they stay.
    - MONOCHROME1 (low is bright) is inverted within the stored bits, except in CT and PET.

    DataError: the pixels of a file cannot be decoded.
    """
    read = [_read_slice(item) for item in slices]
    volume = np.stack([values for values, _ in read], axis=-1)
    if any(padding is not None for _, padding in read):
        blank = np.zeros(volume.shape[:2], dtype=bool)
        _level(volume, np.stack([blank if padding is None else padding for _, padding in read], axis=-1))
    return volume


def _read_slice(item: DicomSlice) -> tuple[np.ndarray, np.ndarray | None]:
    """Values, and a mask of padding if the file defines it."""
    try:
        dataset = _read_dataset(item.file)
        stored = dataset.pixel_array
        if stored.shape != (item.rows, item.columns):
            raise ValueError(f"expected {item.rows} x {item.columns} pixels, found {stored.shape}")
        padding = _padding(stored, dataset)
        if item.photometric == "MONOCHROME1" and item.modality not in _QUANTITIES:
            stored = _inverted(stored, dataset)
        values = np.asarray(_rescale(stored, dataset), dtype=np.float32)
    except Exception as error:  # a damaged file can raise any
        raise DataError(
            f"{item.file}: the pixels cannot be decoded ({error_reason(error)}); copy the file again, or for a "
            'compressed one pip install "pylibjpeg[all]", or decompress it.'
        ) from error
    return values.T, None if padding is None else padding.T


def _rescale(stored: np.ndarray, dataset: Any) -> np.ndarray:
    try:
        from pydicom.pixels import apply_rescale
    except ImportError:  # pydicom 2, which MONAI Label's server needs
        from pydicom.pixel_data_handlers.util import apply_modality_lut as apply_rescale  # type: ignore[no-redef]
    return apply_rescale(stored, dataset)


def _read_dataset(file: str) -> Any:
    dataset = pydicom.dcmread(file, force=True)
    if not dataset.file_meta.get("TransferSyntaxUID"):  # a file without preamble may lack it
        # pydicom 2 has no original_encoding
        encoding = getattr(dataset, "original_encoding", None) or (dataset.is_implicit_VR, dataset.is_little_endian)
        implicit, little = encoding
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(_IMPLICIT if implicit else _EXPLICIT if little else _BIG)
    for name, neutral in (("RescaleSlope", 1), ("RescaleIntercept", 0)):
        if dataset.get(name) in (None, ""):
            setattr(dataset, name, neutral)
    return dataset


def _padding(stored: np.ndarray, dataset: Any) -> np.ndarray | None:
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "" or stored.dtype.kind not in "iu":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [value, value if limit is None or limit == "" else limit]
    # signed values are often written as unsigned: 63536 is -2000
    stated = np.array([int(end) for end in ends]).astype(stored.dtype)
    low, high = sorted(_within_stored_bits(stated, stored, dataset))
    return (stored >= low) & (stored <= high)


def _within_stored_bits(values: np.ndarray, stored: np.ndarray, dataset: Any) -> np.ndarray:
    """The values as pixels have them of which the decoder has kept BitsStored: of 12 bits, -3024 is 1072."""
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation) == 1
    least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if bits >= 8 * stored.dtype.itemsize or stored.min() < least or stored.max() > most:
        return values
    kept = values.astype(np.int64) & ((1 << bits) - 1)
    return np.where(kept > most, kept - (1 << bits), kept)


def _inverted(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Invert within the stored bits: the darkest possible value becomes the brightest."""
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation) == 1
    return np.asarray(-1 - stored if signed else (1 << bits) - 1 - stored.astype(np.int64))


def _level(volume: np.ndarray, padding: np.ndarray) -> None:
    valid = volume[~padding]
    if padding.any() and valid.size:
        levels = volume[padding]
        if levels.max() <= valid.min() or levels.min() >= valid.max():
            volume[padding] = valid.min()
