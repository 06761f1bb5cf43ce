"""Puts the axis along which a volume is cut into slices last."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, TraceableTransform

__all__ = ["SliceAxisLastd", "choose_slice_axis"]

# spacings closer than this are the same: a header's rounding must not choose the axis
_SAME_SPACING = 1.01


def choose_slice_axis(spacing: np.ndarray, slice_axis: int | str = "auto") -> int:
    """The array axis to slice along: the one asked for, or the coarsest.

    Args:
        spacing: voxel size along each axis, mm.
        slice_axis: 0, 1, 2, or "auto" for the largest spacing; of equal ones the last.

    Returns:
        the axis, 0 to 2.

    Raises:
        ValueError: any other ``slice_axis``.
    """
    if slice_axis == "auto":
        return int(np.flatnonzero(spacing * _SAME_SPACING >= spacing.max())[-1])
    if isinstance(slice_axis, bool) or slice_axis not in (0, 1, 2):
        raise ValueError(f'slice_axis must be 0, 1, 2 or "auto", got {slice_axis!r}.')
    return int(slice_axis)


class SliceAxisLastd(MapTransform, InvertibleTransform):
    """Transpose volumes so that slices are taken along the last axis; the affine follows, nothing is resampled.

    Args:
        keys: volumes ``(C, *S)`` as MetaTensors, as LoadImaged reads them.
        slice_axis: see :func:`choose_slice_axis`; each volume's own spacing decides for it.
        allow_missing_keys: skip keys that are not there.

    Raises:
        ValueError: unknown ``slice_axis``.
    """

    def __init__(self, keys: KeysCollection, slice_axis: int | str = "auto", allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        choose_slice_axis(np.ones(3), slice_axis)
        self.slice_axis = slice_axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transpose every key alike."""
        output = dict(data)
        for key in self.key_iterator(output):
            axis = choose_slice_axis(output[key].pixdim.numpy(), self.slice_axis)
            output[key] = self._move_last(output[key], axis)
        return output

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put the axis back where it was."""
        output = dict(data)
        for key in self.key_iterator(output):
            axis = self.pop_transform(output[key])["extra_info"]["axis"]
            restored = output[key].movedim(-1, axis + 1)
            restored.affine = output[key].affine @ torch.linalg.inv(_permutation(axis))
            output[key] = restored
        return output

    def _move_last(self, volume: MetaTensor, axis: int) -> MetaTensor:
        moved = cast(MetaTensor, volume.movedim(axis + 1, -1))
        meta = TraceableTransform.track_transform_meta(
            volume,
            sp_size=moved.shape[1:],
            affine=_permutation(axis),
            extra_info={"axis": axis},
            orig_size=volume.shape[1:],
            transform_info=self.get_transform_info(),
        )
        return moved.copy_meta_from(meta)


def _permutation(axis: int) -> torch.Tensor:
    """Maps voxel indices of the transposed volume to those of the original one, ``(4, 4)``."""
    order = [other for other in range(3) if other != axis] + [axis]
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[[*order, 3], [0, 1, 2, 3]] = 1.0
    return matrix
