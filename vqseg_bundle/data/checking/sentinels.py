"""Values that stand for "no data" and lie so far off that, scaled with the rest, they leave nothing of an image."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["find_sentinel"]

_SHARE = 0.25  # percent of a channel's voxels, half of what intensities are clipped to
_LEAST_CONTRAST = 1e-3
_LARGEST = float(np.finfo(np.float32).max)


def find_sentinel(voxels: np.ndarray, most_sampled: int) -> float | None:
    """The value at an end of a channel's range beside which the contrast of all others is lost, if there is one.

    It takes up at least 0.25 % of the voxels, so that clipping to the 0.5 and 99.5 percentiles may keep it, and the 5
    and 95 percentiles of the others are less than a thousandth of the range apart: padding of -3.4e38 (float32's lowest
    value) in any image, of -9999 in one of 0 to 1; not of -2000 or -32768 in Hounsfield units. Where float32 cannot
    hold the range itself, it is the end that is further from 0.

    Args:
        voxels: finite, ``(X, Y, Z)`` or ``(X, Y, Z, C)``.
        most_sampled: voxels of a channel that are looked at, at most.
    """
    channels = np.moveaxis(voxels, 3, 0) if voxels.ndim > 3 else voxels[None]
    found = (_of_channel(channel, most_sampled) for channel in channels)
    return next((value for value in found if value is not None), None)


def _of_channel(channel: np.ndarray, most_sampled: int) -> float | None:
    sample = channel.ravel(order="K")[:: math.ceil(channel.size / most_sampled)].astype(np.float64)
    low, high = sample.min(), sample.max()
    bottom, top = np.percentile(sample, [_SHARE, 100 - _SHARE])
    if top - bottom > _LARGEST:
        return float(low if abs(low) > abs(high) else high)
    ends = [end for end, reached in ((low, bottom == low), (high, top == high)) if reached]
    for far in [[end] for end in ends] + [ends]:
        rest = sample[~np.isin(sample, far)]
        if far and rest.size and 0 < _contrast(rest) < _LEAST_CONTRAST * (top - bottom):
            return float(max(far, key=lambda end: abs(end - np.median(rest))))
    return None


def _contrast(values: np.ndarray) -> float:
    low, high = np.percentile(values, [5, 95])
    return float(high - low) or float(np.ptp(values))
