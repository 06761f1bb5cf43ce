"""NIfTI volumes, by nibabel; an image of two axes becomes a volume of one slice."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..errors import DataError
from .volume_header import VolumeHeader

__all__ = ["read_nifti", "read_nifti_header"]

_GZIP_SIZE_BYTES = 4  # the last bytes of a gzip file: its unpacked size, modulo 2 ** 32


def read_nifti_header(path: str) -> VolumeHeader:
    """Read the geometry, and see that the file is as long as it should be.

    Raises:
        DataError: the file is another one, or its voxels are no real numbers.
        OSError: the file is truncated or broken; nibabel's own errors, too.
    """
    image = _open(path)
    header = VolumeHeader(_volume_shape(image), np.asarray(image.affine, dtype=np.float64))
    _check_length(path, image)
    if image.get_data_dtype().kind not in "biuf":
        raise DataError(
            f"{path}: expected real numbers as voxels, found type {image.get_data_dtype()}; save the magnitude of "
            "complex numbers, and colours as channels of a fourth axis."
        )
    return header


def read_nifti(path: str) -> np.ndarray:
    """Read the voxels in their stored type, or as float32 where the header has an intensity scale.

    Raises:
        DataError: the file is another one.
        OSError: the file is truncated or broken; nibabel's own errors, too.
    """
    image = _open(path)
    if (float(image.dataobj.slope), float(image.dataobj.inter)) != (1.0, 0.0):
        return image.get_fdata(dtype=np.float32).reshape(_volume_shape(image))
    return np.asanyarray(image.dataobj).reshape(_volume_shape(image))


def _volume_shape(image: Any) -> tuple[int, ...]:
    return (*image.shape, 1) if len(image.shape) == 2 else tuple(image.shape)


def _open(path: str) -> Any:
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        raise DataError(f"{path}: expected a NIfTI file, found {type(image).__name__}.")
    return image


def _check_length(path: str, image: Any) -> None:
    """Raise EOFError where the file is shorter than its header says."""
    needed = int(image.dataobj.offset) + int(np.prod(image.shape, dtype=np.int64)) * image.get_data_dtype().itemsize
    found = _unpacked_size(path, needed) if path.lower().endswith(".gz") else Path(path).stat().st_size
    if found < needed:
        raise EOFError(f"{needed} bytes expected, {found} found")


def _unpacked_size(path: str, expected: int) -> int:
    with Path(path).open("rb") as file:
        file.seek(-min(Path(path).stat().st_size, _GZIP_SIZE_BYTES), 2)
        if int.from_bytes(file.read(), "little") == expected % 2**32:
            return expected
    # A sound file packed in several parts has another number there, so only unpacking tells.
    with gzip.open(path) as packed:
        return sum(len(block) for block in iter(lambda: packed.read(2**24), b""))
