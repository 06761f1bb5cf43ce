"""What is compared: contenders that do the same work at the same sizes, and what measuring them gave."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["MEASURED", "CaseDefinition", "Comparison", "Contender", "Plan", "Result", "product_seconds"]

#: Status of a contender that was run.
MEASURED = "measured"

# Only the progress bar's time left and the number of rounds depend on it.
_ASSUMED_FLOPS = 1.0e11


@dataclass(frozen=True)
class Plan:
    """What the cases are built from.

    Attributes:
        device: "cpu" or "cuda".
        quick: tiny sizes, to see that everything runs.
        reference_code: folder of a checkout of the published VQ-Seg code, or None.
        foundation_weights: checkpoint of DINOv2 ViT-S/14; None takes random weights.
    """

    device: str = "cpu"
    quick: bool = False
    reference_code: str | None = None
    foundation_weights: str | None = None


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: shown in the table, unique in its comparison.
        prepare: builds the inputs and returns the work, which returns its result; both are made of module-level
            functions, since a child process gets them, too.
        seconds: rough time of one run, for the progress bar and the number of rounds.
        extra_bytes: rough memory that one run needs; above the limit the contender is skipped.
        once: too slow for rounds; runs once only, in the child process that reads its memory.
        unavailable: why it cannot run here; empty where it can.
    """

    name: str
    prepare: Callable[[], Callable[[], Any]]
    seconds: float = 0.01
    extra_bytes: float = 0.0
    once: bool = False
    unavailable: str = ""


@dataclass(frozen=True)
class Comparison:
    """Contenders that take turns in one run.

    Attributes:
        setting: sizes, by name.
        contenders: in the order in which they take turns.
        baseline: name of the contender that the others' times are divided by; empty for none.
    """

    setting: Mapping[str, Any]
    contenders: tuple[Contender, ...]
    baseline: str = ""


@dataclass(frozen=True)
class CaseDefinition:
    """A table of the report.

    Attributes:
        title: heading.
        note: what a row is.
        build: the comparisons.
    """

    title: str
    note: str
    build: Callable[[Plan], list[Comparison]]


@dataclass(frozen=True)
class Result:
    """What measuring one contender gave.

    Attributes:
        contender: its name.
        status: :data:`MEASURED`, or why it was not.
        seconds: time of each run.
        extra_bytes: peak memory of one run beyond what was there before it; None where not measured.
    """

    contender: str
    status: str
    seconds: tuple[float, ...] = ()
    extra_bytes: int | None = None

    @property
    def minimum(self) -> float | None:
        """Fastest run, seconds."""
        return min(self.seconds, default=None)

    @property
    def median(self) -> float | None:
        """Median run, seconds."""
        return statistics.median(self.seconds) if self.seconds else None


def product_seconds(rows: int, columns: int, depth: int, products: float = 1.0) -> float:
    """Rough time of ``products`` matrix products of ``(rows, depth)`` with ``(depth, columns)``."""
    return 1e-3 + products * 2.0 * rows * columns * depth / _ASSUMED_FLOPS
