"""What a file format is to the rest of the package: one record of how its files are known and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["FileFormat", "VolumeHeader"]


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


@dataclass(frozen=True)
class FileFormat:
    """A format that volumes may have; the data check and the training read by the same record.

    Readers take a path and give arrays ``(X, Y, Z)``, or ``(X, Y, Z, C)`` with channels, and an affine to RAS in mm. Of
    a broken file they may raise what their library raises, see :func:`~vqseg_bundle.data.read_header`.

    Args:
        kind: short name.
        title: what messages call it.
        suffixes: of file names, in lower case; suffixes tell the format, then the content is checked.
        read_header: geometry without voxels; sees that the file is as long as it should be, where the format tells.
        read_voxels: voxels in their stored type, or as float32 where the header has an intensity scale.
        read_label: a label's values as they are stored; None takes ``read_voxels``.
        source_files: the files that hold the volume, in order; None stands for the file itself.
        class_names: names of a label's values, as far as the file says any; None where no file does.
        folders: whether a folder of slices is a volume.
        flat: whether its files are previews where there are volumes beside them.
        masks_of_255: whether 255 is class 1 in a label of 0 and 255.
        detached: suffixes of files whose voxels lie in another one, whose change the check's cache would not see.
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
