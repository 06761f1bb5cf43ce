"""Decisions of a plan: a value by a rule, or the user's own, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Decision", "Decisions", "PlanError", "Ruled"]


class PlanError(ValueError):
    """Settings given by the user that contradict each other; the message names the keys."""


class Ruled(NamedTuple):
    """What a rule returns: its value, and the numbers that it came from."""

    value: Any
    why: str


@dataclass(frozen=True)
class Decision:
    """A value of a plan.

    Attributes:
        id: the configuration's key, such as "patch_size" or "network_def#channels".
        value: in JSON form.
        rule: name of the rule's function; empty for a value that was given.
        why: the numbers that a rule's value came from, or where a given one was.
    """

    id: str
    value: Any
    rule: str
    why: str


class Decisions:
    """The decisions made so far, in their order; a given value always takes a rule's place.

    Args:
        given: value and origin ("given by the user", ...) by id.
    """

    def __init__(self, given: Mapping[str, tuple[Any, str]]) -> None:
        self._given = given
        self._made: dict[str, Decision] = {}

    def decide(self, id_: str, rule: Callable[..., Ruled], *arguments: Any) -> Any:
        """The value under an id: the given one, otherwise the rule's for these arguments."""
        if id_ in self._given:
            value, origin = self._given[id_]
            self._made[id_] = Decision(id_, value, "", origin)
        else:
            ruled = rule(*arguments)
            self._made[id_] = Decision(id_, ruled.value, rule.__name__.lstrip("_"), ruled.why)
        return self._made[id_].value

    def value(self, id_: str) -> Any:
        """The value decided on."""
        return self._made[id_].value

    def made(self) -> tuple[Decision, ...]:
        """All decisions."""
        return tuple(self._made.values())
