"""Confidence intervals of means over cases, by a bootstrap with a fixed seed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

__all__ = ["CONFIDENCE", "RESAMPLES", "Interval", "bootstrap_intervals"]

RESAMPLES = 10_000
CONFIDENCE = 0.95
#: bound on the cases drawn at once, so that large cohorts need little memory
_BLOCK = 4_000_000


class Interval(NamedTuple):
    """Bounds of an interval, both NaN if there is none."""

    low: float
    high: float


def bootstrap_intervals(values: np.ndarray, seed: int = 0) -> list[Interval]:
    """Percentile bootstrap of the mean: cases are drawn with replacement, all classes of a case together.

    Args:
        values: a metric, ``(cases, classes)``; NaN if a class of a case does not count.
        seed: seed of the draw.

    Returns:
        The 95 % interval of each class's mean, then that of their mean over classes; NaN for fewer than two values.
    """
    cases, classes = values.shape
    counted = ~np.isnan(values)
    if cases < 2:
        return [Interval(math.nan, math.nan)] * (classes + 1)
    means = _resampled_means(np.where(counted, values, 0.0), counted.astype(np.float64), seed)
    enough = [int(column.sum()) > 1 for column in counted.T]
    with_any = ~np.isnan(means)
    overall = np.where(with_any, means, 0.0).sum(axis=1) / np.maximum(with_any.sum(axis=1), 1)
    intervals = [
        _interval(column) if many else Interval(math.nan, math.nan)
        for column, many in zip(means.T, enough, strict=True)
    ]
    return [*intervals, _interval(np.where(with_any.any(axis=1), overall, math.nan))]


def _resampled_means(values: np.ndarray, counted: np.ndarray, seed: int) -> np.ndarray:
    """Means of every resample, ``(RESAMPLES, classes)``; NaN if it has no value of a class."""
    rng = np.random.default_rng(seed)
    cases = len(values)
    means: list[np.ndarray] = []
    done = 0
    while done < RESAMPLES:
        count = min(RESAMPLES - done, max(1, _BLOCK // cases))
        times = rng.multinomial(cases, np.full(cases, 1 / cases), size=count).astype(np.float64)
        weights = times @ counted
        means.append(np.where(weights > 0, times @ values, math.nan) / np.maximum(weights, 1))
        done += count
    return np.concatenate(means)


def _interval(means: np.ndarray) -> Interval:
    if np.isnan(means).all():
        return Interval(math.nan, math.nan)
    low, high = np.nanquantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))
