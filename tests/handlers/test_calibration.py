"""Calibration of an evaluation: its bins and its error by hand, what is not counted, and where it is shown."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from support.report_parts import boxes, case, evaluate

from vqseg_bundle.data import MeasureCertaintyd, soft_dice_confidence
from vqseg_bundle.handlers.calibration import calibration_error, fill_bins

SCHEMA = Path(__file__).parents[2] / "docs" / "summary.schema.json"


def maps(confidence: list[float], classes: list[int]) -> torch.Tensor:
    return torch.tensor([confidence, classes], dtype=torch.float32)[:, None, :]


def test_bins_and_error_are_those_computed_by_hand() -> None:
    # confidences 0.6 (bin 9, whose upper edge it is), 0.61 (bin 10) and twice 0.95 (bin 15), of which one is wrong
    found = fill_bins(maps([0.6, 0.61, 0.95, 0.95], [1, 1, 1, 0]), torch.tensor([[[1, 0, 1, 1]]]), 2)
    expected = np.zeros((15, 3))
    expected[8], expected[9], expected[14] = (1, 0.6, 1), (1, 0.61, 0), (2, 1.9, 1)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert calibration_error(found) == pytest.approx((0.4 + 0.61 + 0.9) / 4, abs=1e-7)
    # over cases the sums are added, not the errors
    assert calibration_error(found + found) == pytest.approx(calibration_error(found))
    assert math.isnan(calibration_error(np.zeros((15, 3))))


def test_ignored_voxels_and_the_background_far_from_all_structures_are_not_counted() -> None:
    confidence = torch.full((2, 40, 40, 40), 0.9)
    confidence[1] = 0
    label = torch.zeros(1, 40, 40, 40)
    confidence[1, 20, 20, 20] = label[0, 20, 20, 22] = 1
    assert fill_bins(confidence, label, 2)[:, 0].sum() == 11 * 11 * 13
    label[0, 20, 20, 18] = 2
    assert fill_bins(confidence, label, 2)[:, 0].sum() == 11 * 11 * 13 - 1
    label[0, 3, 3, 3] = confidence[1, 3, 3, 3] = 2  # a structure that is predicted where nobody labelled
    assert fill_bins(confidence, label, 2)[:, 0].sum() == 11 * 11 * 13 - 1
    assert fill_bins(torch.zeros(2, 4, 4, 4), torch.zeros(1, 4, 4, 4), 2).sum() == 0


def test_true_probabilities_have_no_error_and_millions_of_voxels_are_added_exactly() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 1, 3_000_000)
    correct = rng.random(truth.size) < truth
    confidence = torch.stack([torch.tensor(truth), torch.ones(truth.size)]).float()[:, None]
    found = fill_bins(confidence, torch.tensor(correct[None, None]).long(), 2)
    assert calibration_error(found) < 0.002
    assert found[:, 1].sum() == pytest.approx(confidence[0].double().sum().item(), rel=1e-12)


def test_the_confidence_is_the_largest_probability_and_its_class() -> None:
    logits = torch.log(torch.tensor([[0.2, 0.5], [0.7, 0.4], [0.1, 0.1]]))[:, None]
    found = MeasureCertaintyd("pred", confidence=True)({"pred": logits})
    torch.testing.assert_close(found["confidence"], torch.tensor([[[0.7, 0.5]], [[1.0, 0.0]]]))
    assert MeasureCertaintyd("pred")({"pred": logits}).keys() == {"pred", "soft_dice"}


def test_the_dice_that_a_prediction_expects_by_hand() -> None:
    """The mean of 2 x 1.3 / (2 + 1.6) and 2 x 0.8 / (1 + 1.2) for the two classes that are predicted, of three."""
    probabilities = np.array([[0.0, 0.2, 0.0, 0.7], [0.7, 0.6, 0.2, 0.1], [0.2, 0.1, 0.8, 0.1], [0.1, 0.1, 0.0, 0.1]])
    found = soft_dice_confidence(probabilities.reshape(4, 2, 2, 1))
    assert found == pytest.approx((2 * 1.3 / 3.6 + 2 * 0.8 / 2.2) / 2)
    assert math.isnan(soft_dice_confidence(np.array([0.9, 0.1]).reshape(2, 1, 1, 1)))


def test_summary_and_report_have_it_if_the_evaluation_has_confidences(tmp_path: Path) -> None:
    one = case("a", boxes(1), boxes(1))
    two = case("b", boxes(1, shift=1), boxes(1))
    for item in (one, two):
        item["confidence"] = torch.cat([torch.full_like(item["pred"], 0.8), item["pred"]]).as_tensor()
    page = evaluate(tmp_path, [one, two])
    summary = json.loads((tmp_path / "summary.json").read_text())
    jsonschema.validate(summary, json.loads(SCHEMA.read_text()))
    # boxes of 10 and 11 x 11 x 6 voxels, in the second of which 2 x 16 are wrong
    voxels = 10 * 11 * 6 + 11 * 11 * 6
    assert summary["calibration"]["voxels"] == summary["calibration"]["bins"][11]["voxels"] == voxels
    assert summary["calibration"]["expected_calibration_error"] == pytest.approx(0.2 - 32 / voxels)
    assert f"Expected calibration error {0.2 - 32 / voxels:.4f}" in page
    assert "Calibration" not in evaluate(tmp_path / "none", [case("a", boxes(1), boxes(1))])
    assert "calibration" not in json.loads((tmp_path / "none" / "summary.json").read_text())
