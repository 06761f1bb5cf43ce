"""Contenders that do the same work at the same sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Case", "Comparison", "Contender", "Plan"]


@dataclass(frozen=True)
class Plan:
    """Options of the cases.

    Attributes:
        device: "cpu" or "cuda".
        quick: tiny sizes, to check that everything runs.
        reference_code: folder of a checkout of the published VQ-Seg code, or None.
    """

    device: str = "cpu"
    quick: bool = False
    reference_code: str | None = None


@dataclass(frozen=True)
class Contender:
    """One implementation of the work.

    Attributes:
        name: name in the table, unique in its comparison.
        prepare: builds the inputs and returns the work, which returns its result; made of module-level functions, since
            it is pickled for the measuring processes.
        extra_bytes: approximate memory of one run; above the limit the contender is skipped.
        once: too slow for rounds; runs only once, in the process that measures its memory.
        unavailable: why it cannot run here; empty if it can.
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
        contenders: in the order of their turns.
        baseline: name of the contender by whose times the others' are divided; empty for none.
    """

    setting: Mapping[str, Any]
    contenders: tuple[Contender, ...]
    baseline: str = ""


@dataclass(frozen=True)
class Case:
    """A table of the report.

    Attributes:
        title: heading.
        note: explanation of the rows.
        build: the comparisons.
    """

    title: str
    note: str
    build: Callable[[Plan], list[Comparison]]
