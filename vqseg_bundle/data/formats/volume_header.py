"""Geometry of a volume, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["VolumeHeader"]


@dataclass(frozen=True)
class VolumeHeader:
    """Geometry of a volume on disk.

    Args:
        shape: size of every array axis, channels included.
        affine: 4 x 4 matrix from voxel indices to mm, RAS.
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
