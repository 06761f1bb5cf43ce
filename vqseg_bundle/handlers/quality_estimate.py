"""A case's Dice without its label: a line from how unsure the model is of it, fitted on validation cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from vqseg_bundle.common import gather_objects
from vqseg_bundle.handlers.case_metrics import identify_case
from vqseg_bundle.handlers.largest_component import LargestComponentChoice

__all__ = ["FEWEST_CASES", "DiceEstimate", "QualityFit", "fit_quality"]

#: below it no line is fitted
FEWEST_CASES = 5
_SIGNIFICANT = 0.05  # one-sided: of 5 cases the correlation must be below -0.81, of 10 below -0.55
_NO_SECTION = "the training has left none: it had no validation cases, or was of version 0.9 or earlier"
_AVERAGED = "it is fitted to one model without mirrored copies, and averages are less sure"


def fit_quality(uncertainties: np.ndarray, dice: np.ndarray) -> dict[str, Any]:
    """The section "quality" of ``model.json``: the line of least squares, or why there is none.

    Args:
        uncertainties: of each case, nats.
        dice: its mean Dice over classes.

    Returns:
        "slope" (Dice per nat), "intercept", "correlation" (Pearson's), "deviation" (of Dice from the line, with n - 2
        degrees of freedom) and "cases"; or "none", the reason.
    """
    count = len(dice)
    if count < FEWEST_CASES:
        return {"none": f"{count} validation cases with a prediction, at least {FEWEST_CASES} are needed"}
    from scipy.stats import linregress  # half a second that only a validation should cost

    # a line that may be level by chance estimates nothing, and without a spread there is none
    line = linregress(uncertainties, dice, alternative="less") if np.ptp(uncertainties) > 0 else None
    if line is None or not line.pvalue < _SIGNIFICANT:
        return {"none": f"in {count} validation cases Dice does not clearly fall where the model is less sure"}
    residuals = dice - line.intercept - line.slope * uncertainties
    numbers = {
        "slope": line.slope,
        "intercept": line.intercept,
        "correlation": line.rvalue,
        "deviation": math.sqrt((residuals**2).sum() / (count - 2)),
    }
    return {**{name: round(float(value), 6) for name, value in numbers.items()}, "cases": count}


class QualityFit:
    """Ignite handler that fits the line anew in each validation, to be saved beside the best weights.

    It reads "uncertainty" and "pred" of the evaluator's decollated output after its postprocessing. Cases in which
    nothing is predicted are left out: their uncertainty is no measure, and one of them would turn the line.

    Args:
        components: attached before it, gives the Dice of each case as the model will be used.
    """

    def __init__(self, components: LargestComponentChoice) -> None:
        self.components = components
        self._uncertainties: dict[tuple[str, str], float] = {}
        self._section: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI evaluator, before the handler that saves the best weights."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._fit)

    def record(self) -> dict[str, Any]:
        """The section "quality" of ``model.json``, of the last validation."""
        return {"quality": self._section}

    def _reset(self, engine: Engine) -> None:
        self._uncertainties = {}

    def _update(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, found in zip(batch, output, strict=True):
            if "uncertainty" in found and bool((found["pred"] > 0).any()):
                self._uncertainties[identify_case(item)] = float(found["uncertainty"])

    def _fit(self, engine: Engine) -> None:
        unsure = {key: value for share in gather_objects(self._uncertainties) for key, value in share.items()}
        scores = {key: [value for value in self.components.dice[key] if not math.isnan(value)] for key in unsure}
        # without a score are predictions that lie wholly where the label is "ignore"
        pairs = [(unsure[key], float(np.mean(scores[key]))) for key in sorted(unsure) if scores[key]]
        self._section = fit_quality(*np.array(pairs, dtype=np.float64).reshape(-1, 2).T)


class DiceEstimate:
    """Estimates cases by the line in a model's record.

    Args:
        record: the content of ``model.json``.
        averaged: whether several models or mirrored copies are averaged.

    Attributes:
        section: the line, see :func:`fit_quality`.
        reason: why there is none; empty if there is one.
    """

    def __init__(self, record: Mapping[str, Any], averaged: bool = False) -> None:
        self.section: Mapping[str, Any] = record.get("quality") or {"none": _NO_SECTION}
        self.reason = str(self.section.get("none", _AVERAGED if averaged else ""))

    def __call__(self, uncertainty: float | None, is_empty: bool) -> float:
        """Estimated mean Dice over the classes, 0 to 1; NaN without a line, and where nothing is predicted."""
        if self.reason or uncertainty is None or is_empty:
            return math.nan
        return min(1.0, max(0.0, self.section["intercept"] + self.section["slope"] * float(uncertainty)))
