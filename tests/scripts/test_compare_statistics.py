"""Means over seeds and paired tests, against values computed by hand and against SciPy."""

from __future__ import annotations

import math
import random

import pytest
from scipy.stats import ttest_rel

from scripts.comparison.statistics import mean_by_case, paired_p, spread


def test_spread_is_that_of_a_sample():
    mean, deviation, size = spread([1.0, 2.0, 4.0, math.nan])
    # squared distances 16/9 + 1/9 + 25/9 over n - 1 = 2
    assert (mean, deviation, size) == (pytest.approx(7 / 3), pytest.approx(math.sqrt(42 / 9 / 2)), 3)
    assert spread([0.5])[::2] == (0.5, 1)
    assert math.isnan(spread([0.5]).deviation)
    assert math.isnan(spread([]).mean)


def test_the_paired_test_gives_the_value_computed_by_hand():
    # differences 1, 2, 3: t = 2 sqrt(3), 2 degrees of freedom, p = 1 - t / sqrt(2 + t^2)
    p = paired_p({"a": 2.0, "b": 4.0, "c": 6.0}, {"c": 3.0, "b": 2.0, "a": 1.0})
    assert p == pytest.approx(1 - math.sqrt(12 / 14))


def test_the_paired_test_is_scipys_on_the_common_pairs():
    rng = random.Random(3)
    first, second = ({key: rng.random() for key in keys} for keys in (range(12), range(2, 14)))
    first[5] = math.nan
    keys = [key for key in range(2, 12) if key != 5]
    expected = ttest_rel([first[key] for key in keys], [second[key] for key in keys]).pvalue
    assert paired_p(first, second) == pytest.approx(expected)
    assert paired_p(second, first) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second"),
    [({0: 1.0}, {0: 2.0}), ({0: 1.0, 1: 2.0}, {2: 1.0, 3: 2.0}), ({0: 0.3, 1: 0.6}, {0: 0.1, 1: 0.4})],
    ids=["one pair", "no pair", "equal differences"],
)
def test_the_paired_test_is_not_defined_without_spread(first, second):
    assert math.isnan(paired_p(first, second))


def test_a_case_is_averaged_over_the_runs_that_have_it():
    assert mean_by_case([{"a": 1.0, "b": 2.0}, {"a": 2.0}]) == {"a": 1.5, "b": 2.0}
