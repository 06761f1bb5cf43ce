"""What the report says of how sure the model is: calibration, and Dice estimated without the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vqseg_bundle.handlers.calibration import calibration_error
from vqseg_bundle.handlers.quality_estimate import DiceEstimate
from vqseg_bundle.handlers.report.pictures import draw_reliability

__all__ = ["Estimates", "describe_calibration", "describe_estimates"]


class Estimates(NamedTuple):
    """The line that estimates Dice, and the estimate of each case."""

    line: DiceEstimate
    cases: Mapping[str, float]


def describe_estimates(estimates: Estimates | None, dice: Mapping[str, float]) -> dict[str, str]:
    """What the page says of the estimates: how well they follow the true Dice here, or why there are none."""
    if estimates is None:
        return {}
    line = estimates.line
    if line.reason:
        return {"none": line.reason}
    pairs = np.array([(value, dice[name]) for name, value in estimates.cases.items()]).reshape(-1, 2)
    known = pairs[~np.isnan(pairs).any(axis=1)]
    fit = line.describe()
    if not len(known):
        return {"fit": fit, "here": "no case here has both"}
    words = f"of {len(known)} cases here it is off by {np.abs(known[:, 0] - known[:, 1]).mean():.3f} on average"
    if len(known) > 2 and (np.ptp(known, axis=0) > 0).all():
        words += f", and its correlation with the true mean Dice is {np.corrcoef(known.T)[0, 1]:.2f}"
    return {"fit": fit, "here": words}


def describe_calibration(bins: np.ndarray | None) -> dict[str, Any]:
    """Error and diagram; empty if no voxel was counted."""
    if bins is None or not bins.any():
        return {}
    confidence, accuracy = bins[:, 1].sum() / bins[:, 0].sum(), bins[:, 2].sum() / bins[:, 0].sum()
    words = f"confidence {confidence:.3f}, share of correct voxels {accuracy:.3f}"
    return {"error": f"{calibration_error(bins):.4f}", "words": words, "diagram": draw_reliability(bins)}
