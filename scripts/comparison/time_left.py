"""How long a comparison will still take."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from scripts.comparison.execution import tail
from scripts.comparison.plan import Run

__all__ = ["TimeLeft", "show_duration", "training_share"]

_PROGRESS = re.compile(r"Epoch: (\d+)/(\d+), Iter: (\d+)/(\d+)")
# below this, start-up time says more than the share
_LEAST_SHARE = 0.05


class TimeLeft:
    """Learns from runs that have finished, and from how far those at work are.

    Args:
        share: how far a run's training is, 0 to 1.
    """

    def __init__(self, share: Callable[[Run], float]) -> None:
        self._share = share
        self._known: dict[tuple[str, str], list[float]] = {}

    def learn(self, run: Run, seconds: float) -> None:
        """Take in the time of a finished run."""
        self._known.setdefault((run.dataset.name, run.method.name), []).append(seconds)

    def seconds(self, waiting: Iterable[Run], working: Sequence[tuple[Run, float]], jobs: int) -> float | None:
        """Time to the end, or None while nothing is known.

        Args:
            waiting: runs that have not begun.
            working: runs that have, with the seconds since.
            jobs: how many work at a time.
        """
        guesses = [self._of_same(run) or self._from_share(run, elapsed) for run, elapsed in working]
        hints = [guess for guess in guesses if guess is not None]
        totals = [guess or self._expected(run, hints) for guess, (run, _) in zip(guesses, working, strict=True)]
        expected = [self._expected(run, hints) for run in waiting]
        if None in totals or None in expected:
            return None
        left = [max((total or 0.0) - elapsed, 0.0) for total, (_, elapsed) in zip(totals, working, strict=True)]
        return max([(sum(left) + sum(each or 0.0 for each in expected)) / jobs, *left])

    def _from_share(self, run: Run, elapsed: float) -> float | None:
        share = self._share(run)
        return elapsed / share if share >= _LEAST_SHARE else None

    def _expected(self, run: Run, hints: Sequence[float]) -> float | None:
        """Mean of the runs that are most alike: of the same method and data, of the same data, of any."""
        of_data = [s for (dataset, _), times in self._known.items() if dataset == run.dataset.name for s in times]
        of_any = [s for times in self._known.values() for s in times]
        found = of_data or of_any or list(hints)
        return self._of_same(run) or (statistics.fmean(found) if found else None)

    def _of_same(self, run: Run) -> float | None:
        times = self._known.get((run.dataset.name, run.method.name))
        return statistics.fmean(times) if times else None


def training_share(log: Path) -> float:
    """How far a training is, by the last iteration that its log tells of; 0 before the first."""
    found = _PROGRESS.findall(tail(log, 40))
    if not found:
        return 0.0
    epoch, epochs, iteration, length = map(int, found[-1])
    return (epoch - 1 + iteration / length) / epochs


def show_duration(seconds: float | None) -> str:
    """Hours and minutes, or minutes, or seconds."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
