"""The record of a file format: how its files are recognised and read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["FileFormat", "VolumeHeader", "corner_distance", "same_grid_limit"]

# Share of a voxel's smallest side. Headers of one grid differ by rounding, most in a NIfTI with a qform alone: its
# direction is a quaternion of 32 bits whose first part w is derived, to within 3e-8 / w. Near LPS, w is the sine of
# half the tilt; at a tilt of 0.1 degrees, the corners of 512 x 512 voxels move by up to 0.05 voxels. A label that is
# truly tilted by 2e-4 (0.01 degrees) has its far corner 0.14 voxels off. Nearer to LPS, rounding cannot be told from a
# tilt.
_SAME_GRID = 0.05


def corner_distance(first: np.ndarray, second: np.ndarray, shape: Sequence[int]) -> float:
    """How far two affines move a volume's corners apart, at most, in mm.

    Args:
        first: ``(4, 4)``, from voxel indices to mm.
        second: the other one.
        shape: voxels along the three axes.
    """
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, size - 1) for size in shape[:3]))])
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())


def same_grid_limit(affine: np.ndarray) -> float:
    """How far the corners of two headers of one grid may lie apart, in mm.

    Args:
        affine: of one of them, ``(4, 4)``, from voxel indices to mm.
    """
    return _SAME_GRID * float(np.linalg.norm(affine[:3, :3], axis=0).min())


@dataclass(frozen=True)
class VolumeHeader:
    """Geometry of a volume on disk.

    Args:
        shape: size of each array axis, channels included.
        affine: 4 x 4 matrix from voxel indices to mm, RAS.
        other_affine: a second affine in the file, which is not used (NIfTI's qform beside its sform), or None.
        notes: assumptions of the reader, phrased to follow the file's name, such as "has no geometry; ...".
        modality: by the file, such as "CT" or "MR"; empty if it does not say.
        colors: of a picture with a palette, such as "#ff0000", by stored value; otherwise empty.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    other_affine: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    modality: str = ""
    colors: tuple[str, ...] = ()

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """The first three axes."""
        return self.shape[:3]

    @property
    def channels(self) -> int:
        """Length of the fourth axis, 1 without one."""
        return self.shape[3] if len(self.shape) > 3 else 1


@dataclass(frozen=True)
class FileFormat:
    """A format of volumes; data check and training use the same record.

    Readers take a path and return arrays ``(X, Y, Z)``, or ``(X, Y, Z, C)`` with channels, and an affine to RAS in mm.
    For a damaged file they may raise their library's errors, see :func:`~vqseg_bundle.data.read_header`.

    Args:
        kind: short name.
        title: its name in messages.
        suffixes: of file names, in lower case; they determine the format, then the content is checked.
        read_header: geometry without voxels; also checks the file's length, if the format states it.
        read_voxels: voxels in their stored type, or as float32 if the header has an intensity scale.
        read_label: a label's stored values; None uses ``read_voxels``.
        source_files: the volume's files, in order; None means the file itself.
        class_names: names of a label's values that the file states; None if the format has none.
        folders: whether a folder of slices is a volume.
        flat: whether its files are previews if there are volumes beside them.
        masks_of_255: whether 255 is class 1 in a label of 0 and 255.
        detached: suffixes of files whose voxels are in another file, whose changes the check's cache would not see.
    """

    kind: str
    title: str
    suffixes: tuple[str, ...]
    read_header: Callable[[str], VolumeHeader]
    read_voxels: Callable[[str], np.ndarray]
    read_label: Callable[[str], np.ndarray] | None = None
    source_files: Callable[[str], list[str]] | None = None
    class_names: Callable[[str], dict[int, str]] | None = None
    folders: bool = False
    flat: bool = False
    masks_of_255: bool = False
    detached: tuple[str, ...] = ()
