"""One slice axis for a cohort, so that a header's rounding does not turn single volumes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from ..formats.volume_io import VolumeHeader
from .orientation import orient_header, readable_headers
from .slice_axis import choose_slice_axis, name_slice_axis

__all__ = ["cohort_slice_axis"]

logger = logging.getLogger(__name__)

_MANY = 200  # headers that take long enough to show a bar
_CLEARLY = 1.5  # times coarser than the axis that is taken
_MOST_SHOWN = 5


def cohort_slice_axis(
    images: Sequence[str], slice_axis: int | str = "auto", orientation: str | None = None
) -> int | str:
    """The axis to slice all volumes of a cohort along; with "auto" the one that is coarsest in most of them.

    A volume of a single slice counts for the axis of that. Of equal numbers the last axis is taken, which the log
    states; it also names volumes that are clearly coarser along another axis.

    Args:
        images: paths of the volumes; unreadable ones do not count (the check of the data names them).
        slice_axis: see :func:`~vqseg_bundle.data.choose_slice_axis`.
        orientation: what the volumes are brought to first, such as "RAS"; None: they stay as they are stored.

    Returns:
        "sagittal", "coronal" or "axial", with an orientation; without one a number stays a number, and "auto" gives 0,
        1 or 2. The last axis without any readable volume.

    Raises:
        ValueError: an unknown ``slice_axis``.
    """
    if slice_axis != "auto":
        return name_slice_axis(slice_axis, orientation)
    bar = tqdm(list(dict.fromkeys(images)), "slice axis", unit="file", disable=None if len(images) > _MANY else True)
    headers = {
        image: header if orientation is None else orient_header(header, orientation)
        for image, header in readable_headers(bar).items()
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


def _spacing(header: VolumeHeader) -> np.ndarray:
    return np.linalg.norm(header.affine[:3, :3], axis=0)


def _name_others(headers: Mapping[str, VolumeHeader], axis: int, name: int | str) -> None:
    others = [
        image
        for image, header in headers.items()
        if header.spatial_shape[axis] > 1 and _spacing(header).max() > _CLEARLY * _spacing(header)[axis]
    ]
    if others:
        more = f" and {len(others) - _MOST_SHOWN} more" if len(others) > _MOST_SHOWN else ""
        logger.warning(
            "sliced along axis %s as the cohort, but clearly coarser along another: %s%s; leave them out if they "
            "were scanned in another plane",
            name,
            ", ".join(others[:_MOST_SHOWN]),
            more,
        )
