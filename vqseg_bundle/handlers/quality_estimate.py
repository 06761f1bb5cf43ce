"""A case's Dice without its label: a line from the Dice that the prediction expects, fitted on validation cases."""

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

#: below it no line is fitted: of five cases, one line of four is off by more than twice what it says
FEWEST_CASES = 8
_NO_SECTION = "the training has left none: it had no validation cases, or was of version 0.9 or earlier"
_FORMER = "the training was of version 0.10.2 or earlier, which fitted it to the entropy, and that told little"
_AVERAGED = "it is fitted to one model without mirrored copies, and averages are less sure"


def fit_quality(expected: np.ndarray, dice: np.ndarray) -> dict[str, Any]:
    """The section "quality" of ``model.json``: the line of least squares, or why there is none.

    A line is kept if it rises, and if each case, left out of the fit, is on the whole estimated better by the others'
    line than by their mean. A stricter test would prefer the lines that fit by chance (docs/results.md).

    Args:
        expected: the Dice that each prediction expects of itself.
        dice: its mean Dice over classes.

    Returns:
        "slope", "intercept", "correlation" (Pearson's), "error" (root mean square of Dice less the estimate, each case
        left out of the fit of its own) and "cases"; or "none", the reason.
    """
    count = len(dice)
    if count < FEWEST_CASES:
        return {"none": f"{count} validation cases with a prediction, at least {FEWEST_CASES} are needed"}
    reason = {"none": f"in {count} validation cases Dice does not clearly rise where the prediction expects more"}
    spread = expected - expected.mean()
    if not (spread**2).sum() > 0:
        return reason
    slope, intercept = np.polyfit(expected, dice, 1)
    # what each case is off by the line, and by the mean, of the others (PRESS, Allen 1974)
    off_mean = (dice - dice.mean()) / (1 - 1 / count)
    with np.errstate(divide="ignore", invalid="ignore"):  # of others that all expect the same there is no line
        off_line = (dice - intercept - slope * expected) / (1 - 1 / count - spread**2 / (spread @ spread))
    if slope <= 0 or not (off_line**2).sum() < (off_mean**2).sum():
        return reason
    numbers = {
        "slope": slope,
        "intercept": intercept,
        "correlation": np.corrcoef(expected, dice)[0, 1],
        "error": math.sqrt((off_line**2).mean()),
    }
    return {**{name: round(float(value), 6) for name, value in numbers.items()}, "cases": count}


class QualityFit:
    """Ignite handler that fits the line anew in each validation, to be saved beside the best weights.

    It reads "soft_dice" of the evaluator's decollated output (:class:`~vqseg_bundle.data.MeasureCertaintyd`). Cases in
    which nothing is predicted have none, and are left out.

    Args:
        components: attached before it, gives the Dice of each case as the model will be used.
    """

    def __init__(self, components: LargestComponentChoice) -> None:
        self.components = components
        self._expected: dict[tuple[str, str], float] = {}
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
        self._expected = {}

    def _update(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, found in zip(batch, output, strict=True):
            if not math.isnan(found.get("soft_dice", math.nan)):
                self._expected[identify_case(item)] = float(found["soft_dice"])

    def _fit(self, engine: Engine) -> None:
        expected = {key: value for share in gather_objects(self._expected) for key, value in share.items()}
        scores = {key: [value for value in self.components.dice[key] if not math.isnan(value)] for key in expected}
        # without a score are predictions that lie wholly where the label is "ignore"
        pairs = [(expected[key], float(np.mean(scores[key]))) for key in sorted(expected) if scores[key]]
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
        is_former = "slope" in self.section and "error" not in self.section
        self.reason = str(self.section.get("none", _FORMER if is_former else _AVERAGED if averaged else ""))

    def __call__(self, expected: float | None) -> float:
        """Estimated mean Dice over the classes, 0 to 1, from what the prediction expects; NaN without either."""
        if self.reason or expected is None or math.isnan(expected):
            return math.nan
        return min(1.0, max(0.0, self.section["intercept"] + self.section["slope"] * float(expected)))

    def describe(self) -> str:
        """What the line rests on, and how far off it was where a case was left out of the fit."""
        numbers = {name: f"{self.section[name]:.2f}" for name in ("correlation", "error")}
        cases = f"{self.section['cases']} validation cases, correlation {numbers['correlation']}"
        return f"{cases}, off by {numbers['error']} for a case left out of the fit"
