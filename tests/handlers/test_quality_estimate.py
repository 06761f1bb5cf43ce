"""Dice estimated without the label: the line and its reasons by hand, what counts for it, and where it is shown."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import Compose
from support.report_parts import CASES, LABELS, boxes, case, evaluate

from vqseg_bundle.data import choose_slice_axis
from vqseg_bundle.handlers import ContactSheet, DiceEstimate, LargestComponentChoice, QualityFit
from vqseg_bundle.handlers.quality_estimate import fit_quality

LINE = {"slope": 0.5, "intercept": 0.5, "correlation": 0.8, "error": 0.02, "cases": 9}
ESTIMATE = DiceEstimate({"quality": LINE})
EXPECTED = np.arange(2, 10) / 10


def fit(*cases: tuple[float, torch.Tensor, torch.Tensor]) -> dict:
    """The section after a validation of cases given by the Dice they expect, prediction and label."""
    components = LargestComponentChoice(num_classes=3)
    handler = QualityFit(components)
    engine = Engine(lambda _, batch: [{key: item[key] for key in ("pred", "label", "soft_dice")} for item in batch])
    components.attach(engine)
    handler.attach(engine)
    items = [
        {"case": str(number), "soft_dice": expected, "pred": pred, "label": label}
        for number, (expected, pred, label) in enumerate(cases)
    ]
    engine.run([[item] for item in items], max_epochs=1)
    return handler.record()["quality"]


def leave_out(expected: np.ndarray, dice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each case is off by the line, and by the mean, of the others."""
    lines, means = [], []
    for number in range(len(dice)):
        others = np.arange(len(dice)) != number
        lines.append(dice[number] - np.polyval(np.polyfit(expected[others], dice[others], 1), expected[number]))
        means.append(dice[number] - dice[others].mean())
    return np.array(lines), np.array(means)


def test_the_line_is_that_of_least_squares_and_its_error_that_of_cases_left_out() -> None:
    exact = {"slope": 0.4, "intercept": 0.5, "correlation": 1.0, "error": 0.0, "cases": 8}
    assert fit_quality(EXPECTED, 0.5 + 0.4 * EXPECTED) == exact
    # residuals of +-0.01 orthogonal to the line
    dice = 0.5 + 0.4 * EXPECTED + 0.01 * np.array([1, -1, -1, 1, 1, -1, -1, 1])
    found = fit_quality(EXPECTED, dice)
    error = math.sqrt((leave_out(EXPECTED, dice)[0] ** 2).mean())
    assert (found["slope"], found["error"]) == pytest.approx((0.4, error), abs=1e-6)
    assert error == pytest.approx(0.0138, abs=1e-4)


def test_a_line_is_kept_if_it_rises_and_estimates_cases_left_out_better_than_their_mean() -> None:
    generator, kept = np.random.default_rng(0), 0
    for _ in range(200):
        expected = generator.uniform(size=8)
        dice = 0.8 + 0.1 * expected + generator.normal(scale=0.05, size=8)
        lines, means = leave_out(expected, dice)
        better = bool((lines**2).sum() < (means**2).sum() and np.polyfit(expected, dice, 1)[0] > 0)
        assert ("none" not in fit_quality(expected, dice)) == better
        kept += better
    assert 20 < kept < 180


def test_too_few_cases_and_a_line_that_does_not_rise_are_said() -> None:
    few = fit_quality(EXPECTED[:7], EXPECTED[:7])["none"]
    assert few == "7 validation cases with a prediction, at least 8 are needed"
    reason = "in 8 validation cases Dice does not clearly rise where the prediction expects more"
    assert fit_quality(EXPECTED, 1 - EXPECTED)["none"] == reason
    assert fit_quality(np.full(8, 0.1), EXPECTED)["none"] == reason
    # without the last case there is no line
    assert fit_quality(np.array([0.1] * 7 + [0.5]), EXPECTED)["none"] == reason
    assert DiceEstimate({}).reason.startswith("the training has left none")
    assert DiceEstimate({"quality": LINE}, averaged=True).reason.startswith("it is fitted to one model without")


def test_a_validation_fits_dice_as_the_model_will_be_used_without_empty_predictions() -> None:
    label, wrong = boxes(1), boxes(1, shift=1)
    stray = label.clone()
    stray[0, 11, 11, 5] = 1  # whose removal is chosen
    pairs = [(0.9, stray, label), *[(0.9, label, label)] * 3, *[(0.7, wrong, label)] * 4]
    found = fit(*pairs, (math.nan, torch.zeros_like(label), label))
    # Dice 1 at 0.9 and 0.75 at 0.7
    assert found == {"slope": 1.25, "intercept": -0.125, "correlation": 1.0, "error": 0.0, "cases": 8}
    assert "7 validation cases" in fit(*pairs[:7])["none"]


def test_estimates_are_on_the_line_within_0_and_1_and_none_is_made_of_nothing() -> None:
    assert ESTIMATE(0.6) == pytest.approx(0.8)
    steep = DiceEstimate({"quality": {**LINE, "slope": 5.0, "intercept": -2.0}})
    assert (steep(0.3), steep(0.9)) == (0.0, 1.0)
    assert math.isnan(ESTIMATE(math.nan))
    assert math.isnan(ESTIMATE(None))
    assert math.isnan(DiceEstimate({})(0.6))


def test_a_line_of_version_0_10_is_of_the_entropy_and_not_used() -> None:
    former = {"slope": -0.5, "intercept": 1.0, "correlation": -0.8, "deviation": 0.02, "cases": 6}
    found = DiceEstimate({"quality": former})
    assert found.reason.startswith("the training was of version 0.10.2 or earlier")
    assert math.isnan(found(0.6))


def test_the_report_has_a_column_and_its_correlation_or_the_reason(tmp_path: Path) -> None:
    # Dice 0.875, 1, 0 (nothing predicted) and 1, estimated 0.9, 0.8, - and 1
    cases = [{**item, "soft_dice": value} for item, value in zip(CASES, (0.8, 0.6, math.nan, 1.0), strict=True)]
    page = " ".join(evaluate(tmp_path, cases, ESTIMATE).split())
    correlation = np.corrcoef([0.9, 0.8, 1.0], [0.875, 1.0, 1.0])[0, 1]
    words = f"of 3 cases here it is off by {0.225 / 3:.3f} on average, and its correlation with the true mean Dice is"
    fit = "9 validation cases, correlation 0.80, off by 0.02 for a case left out of the fit"
    assert f"({fit}); {words} {correlation:.2f}." in page
    assert page.count('data-value="0.9"') == page.count('data-value="0.8"') == 1
    columns = [int(number) for number in re.findall(r'data-column="(\d+)"', page)]
    assert columns == list(range(len(columns)))
    without = " ".join(evaluate(tmp_path / "none", cases, DiceEstimate({})).split())
    assert "There is no estimate of Dice from the prediction alone: the training has left none" in without
    assert "Estimated" not in without


def test_the_contact_sheet_has_a_line_or_the_reason(tmp_path: Path) -> None:
    items = [
        {**case(name, boxes(index), boxes(index)), "soft_dice": value}
        for name, index, value in (("a", 1, 0.6), ("b", 0, math.nan))
    ]
    for estimate, words in (
        (ESTIMATE, "estimated Dice: 0.80 ± 0.02"),
        (DiceEstimate({}), "expected Dice: 0.600<"),
        (DiceEstimate({}), "the training has left none"),
    ):
        engine = Engine(lambda _, batch: [{**item, "image": MetaTensor(item["image"])} for item in batch])
        sheet = ContactSheet(tmp_path / "sheet.html", LABELS, Compose([]), choose_slice_axis, estimate)
        sheet.attach(engine)
        engine.run([items], max_epochs=1)
        assert (tmp_path / "sheet.html").read_text(encoding="utf-8").count(words) == 1
