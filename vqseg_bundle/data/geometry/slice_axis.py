"""The axis along which volumes are cut into slices: chosen per volume or per cohort, and moved last."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, TraceableTransform
from tqdm import tqdm

from ..errors import some
from ..formats.volume_io import VolumeHeader
from .orientation import AXIS_ENDS, axis_directions, orient_header, readable_headers

__all__ = [
    "SLICE_AXES",
    "SliceAxisLastd",
    "choose_slice_axis",
    "cohort_slice_axis",
    "headers_slice_axis",
    "name_slice_axis",
    "single_slice_axis",
    "sliced_geometry",
]

#: names of slices across each axis of a RAS volume
SLICE_AXES = ("sagittal", "coronal", "axial")
# spacings closer than this are equal: rounding in a header must not decide the axis
_SAME_SPACING = 1.01
logger = logging.getLogger(__name__)
_MANY = 200  # number of headers from which a progress bar is shown
_CLEARLY = 1.5  # times coarser than the chosen axis


def choose_slice_axis(shape: Sequence[int], affine: np.ndarray, slice_axis: int | str = "auto") -> int:
    """The array axis along which to slice a volume: that of a single slice, else the requested or the coarsest.

    Args:
        shape: voxels along each axis, ``(X, Y, Z)``.
        affine: ``(4, 4)`` from voxel indices to RAS in mm.
        slice_axis: "sagittal", "coronal" or "axial" for the axis nearest to left-right, back-front or feet-head; 0, 1
            or 2 for an axis of the array; "auto" for the largest spacing, the last one on a tie.

    Returns:
        the axis, 0 to 2.

    Raises:
        ValueError: ``slice_axis`` is none of these.
    """
    _check(slice_axis)
    single = single_slice_axis(shape)
    if single is not None:
        return single
    if slice_axis == "auto":
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        return int(np.flatnonzero(spacing * _SAME_SPACING >= spacing.max())[-1])
    if slice_axis in SLICE_AXES:
        directions = axis_directions(affine)[:, 0]
        return int(np.flatnonzero(directions == SLICE_AXES.index(str(slice_axis)))[0])
    return int(slice_axis)


def single_slice_axis(shape: Sequence[int]) -> int | None:
    """The axis of a single slice: the only one of length 1; None for any other volume."""
    single = [axis for axis, size in enumerate(shape[:3]) if size == 1]
    return single[0] if len(single) == 1 else None


def name_slice_axis(slice_axis: int | str, orientation: str | None) -> int | str:
    """The anatomical name of an array axis, which does not depend on how volumes are stored.

    "sagittal", "coronal" or "axial" for 0, 1 or 2 if the array's orientation, such as "RAS", is known; anything else
    unchanged. ValueError: ``slice_axis`` is unknown.
    """
    _check(slice_axis)
    if orientation is None or isinstance(slice_axis, str):
        return slice_axis
    return next(name for name, ends in zip(SLICE_AXES, AXIS_ENDS, strict=True) if orientation[slice_axis] in ends)


class SliceAxisLastd(MapTransform, InvertibleTransform):
    """Transpose volumes so that slices are taken along the last axis; the affine follows, nothing is resampled.

    Args:
        keys: volumes ``(C, *S)`` as MetaTensors, as LoadImaged reads them.
        slice_axis: see :func:`choose_slice_axis`; decided by each volume's own shape and affine.
        allow_missing_keys: skip missing keys.

    Raises:
        ValueError: unknown ``slice_axis``.
    """

    def __init__(self, keys: KeysCollection, slice_axis: int | str = "auto", allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        _check(slice_axis)
        self.slice_axis = slice_axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transpose every key alike."""
        output = dict(data)
        for key in self.key_iterator(output):
            volume = output[key]
            axis = choose_slice_axis(volume.shape[1:], volume.affine.cpu().numpy(), self.slice_axis)
            output[key] = self._move_last(volume, axis)
        return output

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Move the axis back."""
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


def _check(slice_axis: Any) -> None:
    if isinstance(slice_axis, bool) or slice_axis not in ("auto", *SLICE_AXES, 0, 1, 2):
        names = ", ".join(f'"{name}"' for name in ("auto", *SLICE_AXES))
        raise ValueError(f"slice_axis must be {names}, 0, 1 or 2, got {slice_axis!r}.")


def _permutation(axis: int) -> torch.Tensor:
    """Map from voxel indices of the transposed volume to those of the original, ``(4, 4)``."""
    order = [other for other in range(3) if other != axis] + [axis]
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[[*order, 3], [0, 1, 2, 3]] = 1.0
    return matrix


def cohort_slice_axis(
    images: Sequence[str], slice_axis: int | str = "auto", orientation: str | None = None
) -> int | str:
    """The axis along which to slice all volumes of a cohort; with "auto", the one that is coarsest in most of them.

    A single slice counts for its own axis. On a tie the last axis is chosen, and the log says so; it also names volumes
    that are clearly coarser along another axis.

    Args:
        images: paths of the volumes; unreadable ones are ignored (the data check names them).
        slice_axis: see :func:`~vqseg_bundle.data.choose_slice_axis`.
        orientation: to which the volumes are brought first, such as "RAS"; None leaves them as stored.

    Returns:
        "sagittal", "coronal" or "axial" with an orientation; without one, a number is unchanged, and "auto" gives 0, 1
        or 2. If no volume is readable, the last axis.

    Raises:
        ValueError: ``slice_axis`` is unknown.
    """
    if slice_axis != "auto":
        return name_slice_axis(slice_axis, orientation)
    bar = tqdm(list(dict.fromkeys(images)), "slice axis", unit="file", disable=None if len(images) > _MANY else True)
    return headers_slice_axis(readable_headers(bar), slice_axis, orientation)


def headers_slice_axis(
    headers: Mapping[str, VolumeHeader], slice_axis: int | str = "auto", orientation: str | None = None
) -> int | str:
    """:func:`cohort_slice_axis` of volumes whose headers were read before, by path."""
    if slice_axis != "auto":
        return name_slice_axis(slice_axis, orientation)
    headers = {
        image: header if orientation is None else orient_header(header, orientation)
        for image, header in headers.items()
    }
    axes = [choose_slice_axis(header.spatial_shape, header.affine) for header in headers.values()]
    counts = np.bincount(axes, minlength=3)[:3]
    axis = int(np.flatnonzero(counts == counts.max())[-1])
    name = name_slice_axis(axis, orientation)
    if headers:
        tied = " (a tie: the last of them; --slice_axis chooses another)" if (counts == counts.max()).sum() > 1 else ""
        logger.info("slice axis %s: coarsest in %d of %d volumes%s", name, counts[axis], len(headers), tied)
    _name_others(headers, axis, name)
    return name


def sliced_geometry(
    header: VolumeHeader, slice_axis: int | str, orientation: str | None
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Shape and spacing (mm) of a volume as the network sees it, oriented and with the slices' axis last."""
    oriented = header if orientation is None else orient_header(header, orientation)
    last = choose_slice_axis(oriented.spatial_shape, oriented.affine, slice_axis)
    spacing = _spacing(oriented)
    a, b, c = (*(axis for axis in range(3) if axis != last), last)
    shape = oriented.spatial_shape
    return (shape[a], shape[b], shape[c]), (float(spacing[a]), float(spacing[b]), float(spacing[c]))


def _spacing(header: VolumeHeader) -> np.ndarray:
    return np.linalg.norm(header.affine[:3, :3], axis=0)


def _name_others(headers: Mapping[str, VolumeHeader], axis: int, name: int | str) -> None:
    others = [
        image
        for image, header in headers.items()
        if header.spatial_shape[axis] > 1 and _spacing(header).max() > _CLEARLY * _spacing(header)[axis]
    ]
    if others:
        logger.warning(
            "sliced along axis %s as the cohort, but clearly coarser along another: %s; leave them out if they "
            "were scanned in another plane",
            name,
            some(others),
        )
