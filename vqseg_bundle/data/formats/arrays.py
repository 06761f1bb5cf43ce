"""NPY arrays: ``(H, W)`` is an image of one slice, ``(H, W, 3)`` one in colour, ``(X, Y, Z)`` or ``(X, Y, Z, C)`` a
volume.

They know no millimetres: the affine is the identity. Nothing pickled is read.
"""

from __future__ import annotations

import numpy as np
from monai.data import NumpyReader

from ..errors import DataError
from .volume_header import VolumeHeader

__all__ = ["read_array", "read_array_header"]


def read_array_header(path: str) -> VolumeHeader:
    """Read the shape without the values.

    Raises:
        DataError: the values are no real numbers.
        ValueError: the file is truncated or no NPY array.
    """
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        found = getattr(array, "dtype", "something else")
        raise DataError(
            f"{path}: expected one array of real numbers, found {found}; save one, of complex numbers the magnitude."
        )
    return VolumeHeader(_volume_shape(array.shape), np.eye(4))


def read_array(path: str) -> np.ndarray:
    """Read the values in their stored type, in a volume's shape.

    Raises:
        ValueError: the file is truncated or no NPY array.
    """
    reader = NumpyReader()
    values, _ = reader.get_data(reader.read(path))
    return np.asarray(values).reshape(_volume_shape(values.shape))


def _volume_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 2:
        return (*shape, 1)
    if len(shape) == 3 and shape[2] == 3:
        return (*shape[:2], 1, 3)
    return shape
