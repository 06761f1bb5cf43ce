"""Values that stand for "no data" and lie so far off that, scaled with the rest, they leave nothing of an image."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["find_sentinel"]

_SHARE = 0.25  # percent of a channel's voxels, half of what intensities are clipped to
#: share of the range that the others' contrast must have, by what is left out at each end of it, in percent: few stray
#: voxels leave the first small, the blurred edge of a resampled image the second
_LEAST_CONTRAST = {1: 1e-2, 5: 1e-3}
_LARGEST = float(np.finfo(np.float32).max)


def find_sentinel(voxels: np.ndarray, most_sampled: int) -> float | None:
    """The value at an end of a channel's range beside which the contrast of all others is lost, if there is one.

    It takes up at least 0.25 % of the voxels, so that clipping to the 0.5 and 99.5 percentiles may keep it, and beside
    the range the 1 and 99 percentiles of the others are less than a hundredth apart, or the 5 and 95 percentiles less
    than a thousandth: padding of -3.4e38 (float32's lowest value) in any image, of -32768 in an MRI of 0 to 255; not of
    -2000 or -32768 in Hounsfield units. Where float32 cannot hold the range itself, it is the end further from 0.

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
        if far and rest.size and _is_lost(rest, top - bottom):
            return float(max(far, key=lambda end: abs(end - np.median(rest))))
    return None


def _is_lost(values: np.ndarray, span: float) -> bool:
    return any(0 < _contrast(values, left_out) < least * span for left_out, least in _LEAST_CONTRAST.items())


def _contrast(values: np.ndarray, left_out: float) -> float:
    low, high = np.percentile(values, [left_out, 100 - left_out])
    return float(high - low) or float(np.ptp(values))
