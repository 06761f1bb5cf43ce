"""Figures about an image's intensities: the body's, the box that is not empty, and values that hide all others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["body_intensities", "find_sentinel", "nonzero_share"]

_LARGEST = float(np.finfo(np.float32).max)
_AIR_BELOW_HU = -500.0  # an image that reaches below is taken for CT
_AIR_HU = -950.0  # between air, with its noise, and aerated lung
_MOST_BODY_VOXELS = 2**15  # half a percent of them are 160
_SHARE = 0.25  # percent of a channel's voxels, half of the percentile at which intensities are clipped
#: minimum contrast of the other values as a share of the range, by the percentage left out at each end: a few stray
#: voxels do not affect the first, nor the blurred edge of a resampled image the second
_LEAST_CONTRAST = {1: 1e-2, 5: 1e-3}


def body_intensities(sample: np.ndarray, low: float) -> tuple[float, ...]:
    """0.5 and 99.5 percentiles, mean and standard deviation of a sample's values above air; empty if there are none.

    In Hounsfield units those of the lungs are above, in other images all but the smallest value, ``low``.
    """
    sample = sample[:: math.ceil(sample.size / _MOST_BODY_VOXELS)]
    inside = sample[sample > (_AIR_HU if low <= _AIR_BELOW_HU else low)]
    if inside.size == 0:
        return ()
    return (*map(float, np.percentile(inside, [0.5, 99.5])), float(inside.mean()), float(inside.std()))


def nonzero_share(voxels: np.ndarray) -> float:
    """Size of the box around the voxels of which a channel is not zero, as a share of the image's."""
    filled: Any = voxels != 0
    share = 1.0
    for axis in range(min(3, voxels.ndim)):
        others = tuple(other for other in range(voxels.ndim) if other != axis)
        places = np.flatnonzero(filled.any(axis=others))
        share *= (places[-1] - places[0] + 1) / filled.shape[axis] if places.size else 0.0
    return share


def find_sentinel(voxels: np.ndarray, most_sampled: int) -> float | None:
    """The value at an end of a channel's range that hides the contrast of all others, if there is one.

    It takes up at least 0.25 % of the voxels, so clipping to the 0.5 and 99.5 percentiles may keep it. Relative to the
    range, the 1 and 99 percentiles of the others are less than a hundredth apart, or the 5 and 95 percentiles less than
    a thousandth: padding of -3.4e38 in any image, or of -32768 in an MRI of 0 to 255, but not -2000 or -32768 in
    Hounsfield units. If float32 cannot represent the range, it is the end farther from 0.
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
