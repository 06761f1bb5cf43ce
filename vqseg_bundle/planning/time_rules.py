"""Rule of the steps that fit into a given time, by what a few measured steps took."""

from __future__ import annotations

from dataclasses import dataclass

from vqseg_bundle.planning.decisions import PlanError, Ruled

__all__ = ["Pace", "choose_steps_in_time"]

_MOST_STEPS = 20000
_MARGIN = 1.1  # for what no trial shows: figures, logs, checkpoints


@dataclass(frozen=True)
class Pace:
    """What the parts of a training take, in seconds.

    Attributes:
        step: a step, with its share of the validations.
        scan: reading and preparing a scan, which is done once.
        beside: all that is done once, such as the reading of the scans to validate on.
    """

    step: float
    scan: float
    beside: float


def choose_steps_in_time(minutes: float, pace: Pace, scans: int, views: int) -> Ruled:
    """As many steps as the time allows, at most 20,000; until all scans have been read, each view of a step reads one.

    Args:
        minutes: from the first step to the end of the training.
        pace: measured on this machine.
        scans: number of scans to train on.
        views: views a step.

    Raises:
        PlanError: not even one step fits.
    """
    left = 60 * minutes / _MARGIN - pace.beside
    reading, until_read = pace.step + views * pace.scan, scans / views
    fitting = left / reading
    if fitting > until_read:
        fitting = until_read + (left - until_read * reading) / pace.step
    if fitting < 1:
        least = _MARGIN * (pace.beside + reading) / 60
        raise PlanError(f"time_budget {minutes:g} minutes: one step takes {least:.2g}; give more, or max_iterations.")
    why = f"{minutes:g} minutes at {pace.step:.2g} s a step, {pace.scan:.2g} s a scan and {pace.beside:.2g} s beside"
    return Ruled(min(int(fitting), _MOST_STEPS), why)
