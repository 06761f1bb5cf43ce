"""Figures about an image's intensities: the body's, the box that is not empty, and values that hide all others."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["body_intensities", "find_padding", "find_sentinel", "nonzero_share", "ordered_sample", "percentiles"]

_LARGEST = float(np.finfo(np.float32).max)
_AIR_BELOW_HU = -500.0  # an image that reaches below is taken for CT
_AIR_HU = -950.0  # between air, with its noise, and aerated lung
_MOST_VOXELS_SAMPLED = 2**15  # half a percent of them are 160
_SHARE = 0.25  # percent of a channel's voxels, half of the percentile at which intensities are clipped
#: minimum contrast of the other values as a share of the range, by the percentage left out at each end: a few stray
#: voxels do not affect the first, nor the blurred edge of a resampled image the second
_LEAST_CONTRAST = {1: 1e-2, 5: 1e-3}
_LEAST_PADDED = 0.01  # of a channel's voxels
_FAR = 3.0  # spreads of the other values, by which padding lies beyond them
_HU_PADDING = (-1024.0, -2000.0, -2048.0, -3024.0, -3072.0)  # as scanners write it around CT


def ordered_sample(voxels: np.ndarray) -> np.ndarray:
    """32,768 of the voxels, or all of fewer, in ascending order.

    They are drawn, from the same places of all arrays of a size: at a constant distance they would lie in one slice, or
    in one column of all slices, of volumes whose sides are powers of two.
    """
    sample = voxels.ravel(order="K")
    if sample.size > _MOST_VOXELS_SAMPLED:
        sample = sample[np.random.default_rng(0).integers(sample.size, size=_MOST_VOXELS_SAMPLED)]
    return np.sort(sample, kind="stable" if sample.dtype.itemsize <= 2 else None)  # by digits, several times as fast


def percentiles(ordered: np.ndarray, *percents: float) -> np.ndarray:
    """Percentiles of values in ascending order, between neighbours in proportion, float64.

    NumPy's own would look for the order again, which takes longer than all other figures about an image.
    """
    places = np.array(percents) / 100 * (ordered.size - 1)
    below = np.floor(places).astype(int)
    lower, upper = (ordered[np.minimum(place, ordered.size - 1)].astype(float) for place in (below, below + 1))
    return lower + (places - below) * (upper - lower)


def body_intensities(ordered: np.ndarray) -> tuple[float, ...]:
    """0.5 and 99.5 percentiles, mean and standard deviation of an ordered sample above air; empty if nothing is.

    In Hounsfield units the lungs are above, in other images all but the smallest value.
    """
    low = float(ordered[0])
    inside = ordered[np.searchsorted(ordered, _AIR_HU if low <= _AIR_BELOW_HU else low, side="right") :]
    if inside.size == 0:
        return ()
    moments = (float(moment(dtype=np.float64)) for moment in (inside.mean, inside.std))
    return (*map(float, percentiles(inside, 0.5, 99.5)), *moments)


def nonzero_share(voxels: np.ndarray) -> float:
    """Size of the box around the voxels of which a channel is not zero, as a share of the image's."""
    filled: Any = voxels != 0
    share = 1.0
    for axis in range(min(3, voxels.ndim)):
        others = tuple(other for other in range(voxels.ndim) if other != axis)
        places = np.flatnonzero(filled.any(axis=others))
        share *= (places[-1] - places[0] + 1) / filled.shape[axis] if places.size else 0.0
    return share


def find_sentinel(ordered: np.ndarray) -> float | None:
    """The value at an end of the range of a channel (its ordered sample) that hides all others' contrast, or None.

    It takes up at least 0.25 % of the voxels, so clipping to the 0.5 and 99.5 percentiles may keep it. Relative to the
    range, the 1 and 99 percentiles of the others are less than a hundredth apart, or the 5 and 95 percentiles less than
    a thousandth: padding of -3.4e38 in any image, or of -32768 in an MRI of 0 to 255, but not -2000 or -32768 in
    Hounsfield units. If float32 cannot represent the range, it is the end farther from 0.
    """
    low, high = float(ordered[0]), float(ordered[-1])
    bottom, top = percentiles(ordered, _SHARE, 100 - _SHARE)
    if top - bottom > _LARGEST:
        return low if abs(low) > abs(high) else high
    first, last = np.searchsorted(ordered, low, side="right"), np.searchsorted(ordered, high)
    ends = [end for end, reached in ((low, bottom == low), (high, top == high)) if reached]
    for far in [[end] for end in ends] + [ends] * bool(ends):
        rest = ordered[first if low in far else 0 : last if high in far else ordered.size]
        if rest.size and _is_lost(rest, top - bottom):
            return max(far, key=lambda end: abs(end - percentiles(rest, 50)[0]))
    return None


def find_padding(ordered: np.ndarray) -> float | None:
    """The value at an end of the range of a channel (its ordered sample) that is no measurement, or None.

    It takes up at least 1 % of the voxels, and lies beyond all others by three times the distance of their 1 and 99
    percentiles: -9999 or -1000 in an MRI of 0 to 255. 0 is a background, and values in CT are none that its window
    would not clip: others that reach below -500, or padding of scanners, such as -1024.
    """
    low, high = float(ordered[0]), float(ordered[-1])
    first, last = np.searchsorted(ordered, low, side="right"), np.searchsorted(ordered, high)
    for end, count, rest in ((low, first, ordered[first:]), (high, ordered.size - last, ordered[:last])):
        if end in (0.0, *_HU_PADDING) or not rest.size or count < _LEAST_PADDED * ordered.size:
            continue
        spread = float(np.subtract(*percentiles(rest, 99, 1)))
        gap = max(float(rest[0]) - end, end - float(rest[-1]))
        if spread > 0 and gap > _FAR * spread and rest[0] > _AIR_BELOW_HU:
            return end
    return None


def _is_lost(ordered: np.ndarray, span: float) -> bool:
    return any(0 < _contrast(ordered, left_out) < least * span for left_out, least in _LEAST_CONTRAST.items())


def _contrast(ordered: np.ndarray, left_out: float) -> float:
    low, high = percentiles(ordered, left_out, 100 - left_out)
    return float(high - low) or float(ordered[-1]) - float(ordered[0])
