"""Measure comparisons: memory of each contender in a child process, then times in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scripts.benchmark.comparison import MEASURED, Comparison, Contender, Result
from scripts.benchmark.memory import ChildReading, measure_in_child
from scripts.benchmark.timing import CLOCKS, interleaved_times

__all__ = ["RunSettings", "expected_seconds", "measure"]

# Counted rounds of one comparison together should take no longer than this, by the contenders' own rough times.
_ROUNDS_BUDGET_S = 45.0
_MINIMUM_ROUNDS = 3
_CHILD_START_S = 0.5


@dataclass(frozen=True)
class RunSettings:
    """How to measure.

    Attributes:
        device: "cpu" or "cuda".
        threads: PyTorch's threads, at least 1.
        repeats: most counted rounds of a comparison, at least 1; slow comparisons get fewer.
        memory_limit: bytes that one contender may need; one that needs more is skipped.
        clock: "wall", or "cpu" for the process's own processor time, on a machine that is busy with other work.

    Raises:
        ValueError: a number or clock outside what is said above, or the processor's clock for another device.
    """

    device: str
    threads: int
    repeats: int
    memory_limit: float
    clock: str = "wall"

    def __post_init__(self) -> None:
        if self.threads < 1 or self.repeats < 1 or not self.memory_limit > 0:
            raise ValueError(
                "threads and repeats must be at least 1 and the memory limit positive, "
                f"got {self.threads}, {self.repeats} and {self.memory_limit:g}."
            )
        if self.clock not in CLOCKS:
            raise ValueError(f"clock must be one of {', '.join(CLOCKS)}, got '{self.clock}'.")
        if self.clock != "wall" and self.device != "cpu":
            raise ValueError(f"clock '{self.clock}' measures the processor alone, got device '{self.device}'.")


def measure(comparison: Comparison, settings: RunSettings, advance: Callable[[float], None]) -> list[Result]:
    """One result for each contender, in their order.

    Args:
        comparison: what to measure.
        settings: how.
        advance: told the expected seconds of each run that is done; their sum is :func:`expected_seconds`.
    """
    contenders = comparison.contenders
    reasons = {contender.name: _reason_to_skip(contender, settings) for contender in contenders}
    readings: dict[str, ChildReading] = {}
    for contender in contenders:
        if not reasons[contender.name]:
            reading = measure_in_child(contender.prepare, settings.device, settings.threads)
            readings[contender.name], reasons[contender.name] = reading, reading.failure
            advance(_CHILD_START_S + contender.seconds)
    runnable = [contender for contender in contenders if not contender.once and not reasons[contender.name]]
    expected = {contender.name: contender.seconds for contender in contenders}
    times = interleaved_times(
        {contender.name: contender.prepare() for contender in runnable},
        settings.device,
        _rounds(contenders, settings),
        lambda name: advance(expected[name]),
        settings.clock,
    )
    return [_result(contender, reasons[contender.name], readings, times) for contender in contenders]


def expected_seconds(comparisons: Sequence[Comparison], settings: RunSettings) -> float:
    """Rough time that measuring takes."""
    total = 0.0
    for comparison in comparisons:
        runs = 2 + _rounds(comparison.contenders, settings)
        for contender in comparison.contenders:
            if not _reason_to_skip(contender, settings):
                total += _CHILD_START_S + contender.seconds * (1 if contender.once else runs)
    return total


def _reason_to_skip(contender: Contender, settings: RunSettings) -> str:
    if contender.unavailable:
        return contender.unavailable
    if contender.extra_bytes > settings.memory_limit:
        return f"skipped: needs about {contender.extra_bytes / 1e9:.0f} GB"
    return ""


def _rounds(contenders: Sequence[Contender], settings: RunSettings) -> int:
    round_seconds = sum(
        contender.seconds for contender in contenders if not contender.once and not _reason_to_skip(contender, settings)
    )
    affordable = int(_ROUNDS_BUDGET_S / max(round_seconds, 1e-6))
    return min(settings.repeats, max(_MINIMUM_ROUNDS, affordable))


def _result(
    contender: Contender, reason: str, readings: dict[str, ChildReading], times: dict[str, tuple[float, ...]]
) -> Result:
    if reason:
        return Result(contender.name, reason)
    reading = readings[contender.name]
    seconds = (reading.seconds,) if contender.once else times[contender.name]
    return Result(contender.name, MEASURED, seconds, reading.extra_bytes)
