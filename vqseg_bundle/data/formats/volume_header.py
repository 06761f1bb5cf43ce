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
        other_affine: a second one that the file holds and that is not used (NIfTI's qform beside its sform); None
            where there is none.
        notes: what a reader had to assume; each goes on from the file's name, such as "has no geometry; ...".
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    other_affine: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """The first three axes."""
        return self.shape[:3]

    @property
    def channels(self) -> int:
        """Length of the fourth axis, 1 without one."""
        return self.shape[3] if len(self.shape) > 3 else 1
