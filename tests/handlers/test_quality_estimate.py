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

LINE = {"slope": -0.5, "intercept": 1.0, "correlation": -0.8, "deviation": 0.02, "cases": 6}
ESTIMATE = DiceEstimate({"quality": LINE})


def fit(*cases: tuple[float, torch.Tensor, torch.Tensor]) -> dict:
    """The section after a validation of cases given by uncertainty, prediction and label."""
    components = LargestComponentChoice(num_classes=3)
    handler = QualityFit(components)
    engine = Engine(lambda _, batch: [{key: item[key] for key in ("pred", "label", "uncertainty")} for item in batch])
    components.attach(engine)
    handler.attach(engine)
    items = [
        {"case": str(number), "uncertainty": unsure, "pred": pred, "label": label}
        for number, (unsure, pred, label) in enumerate(cases)
    ]
    engine.run([[item] for item in items], max_epochs=1)
    return handler.record()["quality"]


def test_the_line_is_that_of_least_squares() -> None:
    unsure = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert fit_quality(unsure, 0.9 - 0.4 * unsure) == {
        "slope": -0.4,
        "intercept": 0.9,
        "correlation": -1.0,
        "deviation": 0.0,
        "cases": 5,
    }
    # residuals of +-0.01 orthogonal to the line: their squares over 3 degrees of freedom
    offset = 0.01 * np.array([1, -1, 0, -1, 1])
    found = fit_quality(unsure, 0.9 - 0.4 * unsure + offset)
    assert (found["slope"], found["deviation"]) == pytest.approx((-0.4, math.sqrt(4e-4 / 3)), abs=1e-6)


def test_too_few_cases_and_a_line_that_does_not_fall_are_said() -> None:
    unsure = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert fit_quality(unsure[:4], unsure[:4])["none"] == "4 validation cases with a prediction, at least 5 are needed"
    reason = "in 5 validation cases Dice does not clearly fall where the model is less sure"
    assert fit_quality(unsure, unsure)["none"] == reason
    assert fit_quality(np.full(5, 0.1), unsure)["none"] == reason
    # correlations of -0.80 and -0.82: 5 % of the lines of five cases without any are below -0.805
    assert fit_quality(unsure, np.array([0.8, 1.0, 0.6, 0.2, 0.4]))["none"] == reason
    assert fit_quality(unsure, np.array([0.81, 1.0, 0.6, 0.2, 0.37]))["correlation"] < -0.81
    assert DiceEstimate({}).reason.startswith("the training has left none")
    assert DiceEstimate({"quality": LINE}, averaged=True).reason.startswith("it is fitted to one model without")


def test_a_validation_fits_dice_as_the_model_will_be_used_without_empty_predictions() -> None:
    label, wrong = boxes(1), boxes(1, shift=1)
    stray = label.clone()
    stray[0, 11, 11, 5] = 1  # whose removal is chosen
    pairs = [(0.1, stray, label), (0.1, label, label), (0.1, label, label), (0.3, wrong, label), (0.3, wrong, label)]
    found = fit(*pairs, (math.log(3), torch.zeros_like(label), label))
    # Dice 1 at 0.1 and 0.75 at 0.3
    assert found == {"slope": -1.25, "intercept": 1.125, "correlation": -1.0, "deviation": 0.0, "cases": 5}
    assert "4 validation cases" in fit(*pairs[:4])["none"]


def test_estimates_are_on_the_line_within_0_and_1_and_none_is_made_of_nothing() -> None:
    assert ESTIMATE(0.4, is_empty=False) == pytest.approx(0.8)
    assert (ESTIMATE(-1.0, is_empty=False), ESTIMATE(3.0, is_empty=False)) == (1.0, 0.0)
    assert math.isnan(ESTIMATE(0.4, is_empty=True))
    assert math.isnan(ESTIMATE(None, is_empty=False))
    assert math.isnan(DiceEstimate({})(0.4, is_empty=False))


def test_the_report_has_a_column_and_its_correlation_or_the_reason(tmp_path: Path) -> None:
    # Dice 0.875, 1, 0 (nothing predicted) and 1, estimated 0.9, 0.8, - and 1
    cases = [{**item, "uncertainty": unsure} for item, unsure in zip(CASES, (0.2, 0.4, 1.1, 0.0), strict=True)]
    page = " ".join(evaluate(tmp_path, cases, ESTIMATE).split())
    correlation = np.corrcoef([0.9, 0.8, 1.0], [0.875, 1.0, 1.0])[0, 1]
    words = f"of 3 cases here it is off by {0.225 / 3:.3f} on average, and its correlation with the true mean Dice is"
    assert f"(6 validation cases, correlation -0.80); {words} {correlation:.2f}." in page
    assert page.count('data-value="0.9"') == page.count('data-value="0.8"') == 1
    columns = [int(number) for number in re.findall(r'data-column="(\d+)"', page)]
    assert columns == list(range(len(columns)))
    without = " ".join(evaluate(tmp_path / "none", cases, DiceEstimate({})).split())
    assert "There is no estimate of Dice from the prediction alone: the training has left none" in without
    assert "Estimated" not in without


def test_the_contact_sheet_has_a_line_or_the_reason(tmp_path: Path) -> None:
    items = [{**case(name, boxes(index), boxes(index)), "uncertainty": 0.4} for name, index in (("a", 1), ("b", 0))]
    for estimate, words in (
        (ESTIMATE, "estimated Dice: 0.80"),
        (DiceEstimate({}), "There is no estimate of Dice: the"),
    ):
        engine = Engine(lambda _, batch: [{**item, "image": MetaTensor(item["image"])} for item in batch])
        sheet = ContactSheet(tmp_path / "sheet.html", LABELS, Compose([]), choose_slice_axis, estimate)
        sheet.attach(engine)
        engine.run([items], max_epochs=1)
        assert (tmp_path / "sheet.html").read_text(encoding="utf-8").count(words) == 1
