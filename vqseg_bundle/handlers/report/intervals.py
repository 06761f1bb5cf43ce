"""Confidence intervals of means over cases, by a bootstrap of patients with a fixed seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["CONFIDENCE", "RESAMPLES", "Interval", "bootstrap_intervals"]

RESAMPLES = 10_000
CONFIDENCE = 0.95
#: bound on the patients drawn at once, so that large cohorts need little memory
_BLOCK = 4_000_000


class Interval(NamedTuple):
    """Bounds of an interval, both NaN if there is none."""

    low: float
    high: float


def bootstrap_intervals(values: np.ndarray, patients: Sequence[object], seed: int = 0) -> list[Interval]:
    """Percentile bootstrap of the mean over cases: patients are drawn with replacement, each with all of its cases.

    Two scans of one patient are alike; drawn one by one, they would make the interval too narrow.

    Args:
        values: a metric, ``(cases, classes)``; NaN if a class of a case does not count.
        patients: the patient of each case.
        seed: seed of the draw.

    Returns:
        The 95 % interval of each class's mean, then that of their mean over classes; NaN for fewer than two patients.
    """
    classes = values.shape[1]
    names, members = np.unique([str(patient) for patient in patients], return_inverse=True)
    if len(names) < 2:
        return [Interval(math.nan, math.nan)] * (classes + 1)
    sums, counts = np.zeros((len(names), classes)), np.zeros((len(names), classes))
    np.add.at(sums, members, np.nan_to_num(values))
    np.add.at(counts, members, ~np.isnan(values))
    means = _resampled_means(sums, counts, seed)
    enough = [int((column > 0).sum()) > 1 for column in counts.T]
    with_any = ~np.isnan(means)
    overall = np.where(with_any, means, 0.0).sum(axis=1) / np.maximum(with_any.sum(axis=1), 1)
    intervals = [
        _interval(column) if many else Interval(math.nan, math.nan)
        for column, many in zip(means.T, enough, strict=True)
    ]
    return [*intervals, _interval(np.where(with_any.any(axis=1), overall, math.nan))]


def _resampled_means(sums: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Means of every resample, ``(RESAMPLES, classes)``, of patients' sums and counts; NaN if a class has no value."""
    rng = np.random.default_rng(seed)
    patients = len(sums)
    means: list[np.ndarray] = []
    done = 0
    while done < RESAMPLES:
        count = min(RESAMPLES - done, max(1, _BLOCK // patients))
        times = rng.multinomial(patients, np.full(patients, 1 / patients), size=count).astype(np.float64)
        weights = times @ counts
        means.append(np.where(weights > 0, times @ sums, math.nan) / np.maximum(weights, 1))
        done += count
    return np.concatenate(means)


def _interval(means: np.ndarray) -> Interval:
    if np.isnan(means).all():
        return Interval(math.nan, math.nan)
    low, high = np.nanquantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))
