from __future__ import annotations

import math

import pytest

from vqseg_bundle.engines import iteration_budget, sigmoid_ramp_up


@pytest.mark.parametrize(
    ("max_epochs", "iterations_per_epoch", "max_iterations", "budget"),
    [
        (6, 100, 600, 600),  # whole epochs
        (3, 100, 250, 250),  # the last epoch is short
        (1, 100, 7, 7),  # shorter than one epoch
        (3, 100, 201, 201),  # one iteration in the last epoch
        (50, 100, 600, 5000),  # overridden upwards, as MONAI Label does
        (2, 100, 600, 200),  # overridden downwards
        (2, 100, 250, 200),  # an overridden training has whole epochs
        (2, 100, None, 200),  # no budget was asked for
        (1, 1, 1, 1),
    ],
)
def test_budget(max_epochs, iterations_per_epoch, max_iterations, budget):
    assert iteration_budget(max_epochs, iterations_per_epoch, max_iterations) == budget


@pytest.mark.parametrize("counts", [(0, 100, None), (1, 0, 5), (1, 100, 0), (-1, 100, 100)])
def test_budget_refuses_counts_below_1(counts):
    with pytest.raises(ValueError, match=f"must be at least 1, got {counts[0]}, {counts[1]} and {counts[2]}"):
        iteration_budget(*counts)


@pytest.mark.parametrize(
    ("progress", "share", "factor"),
    [
        (0.0, 0.3, math.exp(-5.0)),  # 0.0067
        (0.15, 0.3, math.exp(-1.25)),  # half way: -5 * 0.5^2
        (0.24, 0.3, math.exp(-0.2)),  # -5 * 0.2^2
        (0.3, 0.3, 1.0),
        (0.9, 0.3, 1.0),
        (0.75, 1.0, math.exp(-0.3125)),
        (0.0, 0.0, 1.0),  # no ramp
    ],
)
def test_ramp(progress, share, factor):
    assert sigmoid_ramp_up(progress, share) == pytest.approx(factor, rel=1e-12)


def test_ramp_never_falls():
    factors = [sigmoid_ramp_up(step / 100, 0.4) for step in range(100)]
    assert factors == sorted(factors)
    assert min(factors) > 0.0
    assert max(factors) == 1.0
