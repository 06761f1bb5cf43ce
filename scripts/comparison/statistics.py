"""Means over seeds and paired tests."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from scipy.stats import ttest_rel

__all__ = ["Spread", "mean_by_case", "paired_p", "spread"]

Key = TypeVar("Key")


class Spread(NamedTuple):
    """Mean and standard deviation.

    Attributes:
        mean: NaN for no value.
        deviation: of a sample (n - 1); NaN for fewer than two values.
        size: number of values.
    """

    mean: float
    deviation: float
    size: int


def spread(values: Iterable[float]) -> Spread:
    """Mean and standard deviation of the values that are numbers."""
    counted = [value for value in values if not math.isnan(value)]
    mean = statistics.fmean(counted) if counted else math.nan
    return Spread(mean, statistics.stdev(counted) if len(counted) > 1 else math.nan, len(counted))


def paired_p(first: Mapping[Key, float], second: Mapping[Key, float]) -> float:
    """p of the paired two-tailed t-test over the keys that both have.

    Args:
        first: value by key, such as a case or a seed.
        second: the same.

    Returns:
        NaN where it is not defined: fewer than two pairs, or all differences equal.
    """
    keys = [key for key in first if key in second and not math.isnan(first[key]) and not math.isnan(second[key])]
    differences = [first[key] - second[key] for key in keys]
    # equal up to rounding: the statistic would be made of rounding errors
    if len(keys) < 2 or max(differences) - min(differences) <= 1e-12:
        return math.nan
    return float(ttest_rel([first[key] for key in keys], [second[key] for key in keys]).pvalue)


def mean_by_case(runs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """By case, the mean over the runs that have a number for it.

    Args:
        runs: value by case, one mapping a run.
    """
    values: dict[str, list[float]] = {}
    for run in runs:
        for case, value in run.items():
            values.setdefault(case, []).append(value)
    return {case: statistics.fmean(found) for case, found in values.items()}
