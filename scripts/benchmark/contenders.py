"""What is compared: contenders that do the same work at the same sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Case", "Comparison", "Contender", "Plan"]


@dataclass(frozen=True)
class Plan:
    """What the cases are built from.

    Attributes:
        device: "cpu" or "cuda".
        quick: tiny sizes, to see that everything runs.
        reference_code: folder of a checkout of the published VQ-Seg code, or None.
    """

    device: str = "cpu"
    quick: bool = False
    reference_code: str | None = None


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: shown in the table, unique in its comparison.
        prepare: builds the inputs and returns the work, which returns its result; made of module-level functions,
            since it is pickled for the processes that measure it.
        extra_bytes: rough memory that one run needs; above the limit the contender is skipped.
        once: too slow for rounds; runs once only, in the process that reads its memory.
        unavailable: why it cannot run here; empty where it can.
    """

    name: str
    prepare: Callable[[], Callable[[], Any]]
    extra_bytes: float = 0.0
    once: bool = False
    unavailable: str = ""


@dataclass(frozen=True)
class Comparison:
    """Contenders that take turns.

    Attributes:
        setting: sizes, by name.
        contenders: in the order in which they take turns.
        baseline: name of the contender that the others' times are divided by; empty for none.
    """

    setting: Mapping[str, Any]
    contenders: tuple[Contender, ...]
    baseline: str = ""


@dataclass(frozen=True)
class Case:
    """A table of the report.

    Attributes:
        title: heading.
        note: what a row is.
        build: the comparisons.
    """

    title: str
    note: str
    build: Callable[[Plan], list[Comparison]]
