"""Read a volume's geometry and voxels; the one place that knows file formats."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from .datalist import DataError

__all__ = ["VolumeHeader", "read_header", "read_voxels"]

_GZIP_SIZE_BYTES = 4  # the last bytes of a gzip file: its unpacked size, modulo 2 ** 32


@dataclass(frozen=True)
class VolumeHeader:
    """Geometry of a volume on disk.

    Args:
        shape: size of every array axis, channels included.
        affine: 4 x 4 matrix from voxel indices to mm.
    """

    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """The first three axes."""
        return self.shape[:3]

    @property
    def channels(self) -> int:
        """Length of the fourth axis, 1 without one."""
        return self.shape[3] if len(self.shape) > 3 else 1


def read_header(path: str) -> VolumeHeader:
    """Read the geometry of a NIfTI volume without its voxels, and see that the file is as long as it should be.

    Raises:
        DataError: the file is missing, empty, truncated, or not a NIfTI volume of 3 or 4 dimensions.
    """
    with _readable(path):
        image = _open(path)
        header = VolumeHeader(tuple(image.shape), np.asarray(image.affine, dtype=np.float64))
        _check_length(path, image)
    if len(header.shape) not in (3, 4) or min(header.shape) < 1:
        raise DataError(
            f"{path}: expected a volume of 3 dimensions, or 4 with channels last, found shape {header.shape}."
        )
    if image.get_data_dtype().kind not in "biuf":
        raise DataError(f"{path}: expected real numbers as voxels, found type {image.get_data_dtype()}.")
    if not np.isfinite(header.affine).all() or abs(np.linalg.det(header.affine)) < 1e-12:
        raise DataError(f"{path}: expected an affine with positive, finite voxel spacing, found {_row(header.affine)}.")
    return header


def read_voxels(path: str) -> np.ndarray:
    """Read the voxels in their stored type, or as float32 where the header has an intensity scale.

    Raises:
        DataError: the file is missing, empty, truncated or not a NIfTI volume.
    """
    with _readable(path):
        image = _open(path)
        if (float(image.dataobj.slope), float(image.dataobj.inter)) != (1.0, 0.0):
            return image.get_fdata(dtype=np.float32)
        return np.asanyarray(image.dataobj)


def _open(path: str) -> Any:
    file = Path(path)
    if not file.exists():
        raise DataError(f"{path}: no such file; correct the path in the datalist, or dataset_dir.")
    if not file.is_file():
        raise DataError(f"{path}: expected a NIfTI file, found a folder.")
    if file.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; copy it again.")
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        raise DataError(f"{path}: expected a NIfTI file, found {type(image).__name__}.")
    return image


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise DataError(f"{path}: truncated or unreadable ({error}); copy it again.") from error


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


def _row(affine: np.ndarray) -> str:
    return np.array2string(affine[:3], precision=4, separator=", ").replace("\n", "")
