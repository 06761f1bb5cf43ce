"""One slice axis for a cohort, so that a header's rounding does not turn single volumes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from .errors import DataError
from .slice_axis import choose_slice_axis
from .volume_io import VolumeHeader, read_header

__all__ = ["cohort_slice_axis"]

logger = logging.getLogger(__name__)

_MANY = 200  # headers that take long enough to show a bar
_CLEARLY = 1.5  # times coarser than the axis that is taken
_MOST_SHOWN = 5


def cohort_slice_axis(images: Sequence[str], slice_axis: int | str = "auto") -> int | str:
    """The axis to slice all volumes of a cohort along; with "auto" the one that is coarsest in most of them.

    A volume of a single slice counts for the axis of that. Of equal numbers the last axis is taken, which the log
    states; it also names volumes that are clearly coarser along another axis.

    Args:
        images: paths of the volumes; unreadable ones do not count (the check of the data names them).
        slice_axis: 0, 1, 2 or "auto"; anything but "auto" is returned as it is.

    Returns:
        0, 1 or 2; 2 without any readable volume.
    """
    if slice_axis != "auto":
        return slice_axis
    bar = tqdm(list(dict.fromkeys(images)), "slice axis", unit="file", disable=None if len(images) > _MANY else True)
    headers = {image: header for image in bar if (header := _read(image)) is not None}
    counts = np.bincount([_coarsest(header) for header in headers.values()], minlength=3)[:3]
    axis = int(np.flatnonzero(counts == counts.max())[-1])
    if headers:
        tied = (
            " (a tie: the last of them; --slice_axis N chooses another)" if (counts == counts.max()).sum() > 1 else ""
        )
        logger.info("slice axis %d: coarsest in %d of %d volumes%s", axis, counts[axis], len(headers), tied)
    _name_others(headers, axis)
    return axis


def _read(image: str) -> VolumeHeader | None:
    try:
        return read_header(image)
    except DataError:
        return None


def _coarsest(header: VolumeHeader) -> int:
    single = [axis for axis, size in enumerate(header.spatial_shape) if size == 1]
    return single[0] if len(single) == 1 else choose_slice_axis(_spacing(header))


def _spacing(header: VolumeHeader) -> np.ndarray:
    return np.linalg.norm(header.affine[:3, :3], axis=0)


def _name_others(headers: dict[str, VolumeHeader], axis: int) -> None:
    others = [
        image
        for image, header in headers.items()
        if header.spatial_shape[axis] > 1 and _spacing(header).max() > _CLEARLY * _spacing(header)[axis]
    ]
    if others:
        more = f" and {len(others) - _MOST_SHOWN} more" if len(others) > _MOST_SHOWN else ""
        logger.warning(
            "sliced along axis %d as the cohort, but clearly coarser along another: %s%s; reorder their axes if they "
            "were scanned in another plane",
            axis,
            ", ".join(others[:_MOST_SHOWN]),
            more,
        )
