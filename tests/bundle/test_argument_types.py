"""Plain values are held against the annotations of the components that take them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import pytest
import torch
from monai.bundle import ConfigParser
from support.bundle_runs import CONFIGS
from torch import nn

from vqseg_bundle.bundle.settings.argument_types import check_arguments

T = TypeVar("T")


class Base:
    def __init__(self, scheduler: torch.optim.lr_scheduler.LRScheduler) -> None: ...


class Taker(Base):
    def __init__(
        self,
        size: int,
        rate: float | None,
        sides: tuple[int, int],
        late: int = None,  # noqa: RUF013
        **kwargs: Any,
    ) -> None: ...


def take(
    words: Sequence[str], table: Mapping[str, int], mode: Literal["a", "b"], any_kind: T, module: nn.Module, bare=None
) -> None: ...


def refusals(target: str, argument: str, value: Any) -> list[str]:
    """Of a value that a component takes by reference; the same is said of one given in its place."""
    component = {"_target_": f"{__name__}.{target}"}
    taken = ConfigParser({"x": value, "component": {**component, argument: "@x"}})
    given = ConfigParser({"component": {**component, argument: value}})
    found = check_arguments({"x": ("@usual", value)}, taken)
    assert check_arguments({f"component::{argument}": ("@usual", value)}, given) == [
        line.replace("--x", f"--component#{argument}") for line in found
    ]
    return found


@pytest.mark.parametrize(
    "target, argument, value, expected",
    [
        ("Taker", "size", None, "a whole number, which Taker takes as size, found none"),
        ("Taker", "size", 2.5, "a whole number, which Taker takes as size, found 2.5"),
        ("Taker", "rate", [], "a number or none, which Taker takes as rate, found \\[\\]"),
        ("Taker", "sides", {}, "a list, which Taker takes as sides"),
        ("Taker", "scheduler", 5, "something of type LRScheduler, which Taker takes as scheduler, found 5"),
        ("take", "words", 5, "a list, which take takes as words"),
        ("take", "table", [1], "a mapping, which take takes as table"),
        ("take", "mode", 1, "'a' or 'b', which take takes as mode, found 1"),
        ("take", "module", [], "something of type Module"),
    ],
)
def test_a_value_that_does_not_suit_is_told_with_its_taker(
    target: str, argument: str, value: Any, expected: str
) -> None:
    (line,) = refusals(target, argument, value)
    assert re.match(rf"--x: expected {expected}", line)


@pytest.mark.parametrize(
    "target, argument, value",
    [
        *(("Taker", "rate", value) for value in (None, 2, 2.5, True)),
        *(("Taker", argument, value) for argument, value in (("size", 3), ("sides", [1, 2]), ("others", "x"))),
        *(("Taker", argument, value) for argument, value in (("size", "a library's own word"), ("late", None))),
        *(("take", "words", value) for value in (["a"], "$f()", "@component", {"_target_": "list"})),
        *(("take", argument, value) for argument, value in (("table", {}), ("mode", "b"))),
        *(("take", argument, value) for argument in ("any_kind", "bare") for value in (None, 5, "x", [], {})),
    ],
)
def test_what_suits_or_is_known_only_when_built_is_accepted(target: str, argument: str, value: Any) -> None:
    if value != "@component":
        assert refusals(target, argument, value) == []
    else:
        assert (
            check_arguments({"x": ("@y", value)}, ConfigParser({"x": value, "component": {"_target_": "list"}})) == []
        )


def test_a_text_for_an_argument_of_this_bundle_must_suit() -> None:
    component = {"_target_": "vqseg_bundle.data.evenly_spread", "cases": "@x", "count": 1}
    (line,) = check_arguments({"x": ("$[]", "a")}, ConfigParser({"x": "a", "component": component}))
    assert line.startswith("--x: expected a list, which evenly_spread takes as cases, found 'a'.")


@pytest.mark.parametrize("id_, usual", [("device", "$'cpu'"), ("x", None), ("x", [1]), ("x", "$@plan.table")])
def test_a_setting_is_left_to_the_rule_for_it(id_: str, usual: Any) -> None:
    component = {"_target_": f"{__name__}.take", "table": f"@{id_}"}
    assert check_arguments({id_: (usual, 5)}, ConfigParser({id_: 5, "component": component})) == []


def test_only_a_component_that_takes_the_whole_id_is_asked() -> None:
    component = {"_target_": f"{__name__}.Taker", "size": "$@x + 1", "rate": "@x.rate", "sides": ["@x", "@x"]}
    assert check_arguments({"x": ("@y", None)}, ConfigParser({"x": None, "component": component})) == []


def test_a_target_that_is_unknown_or_has_no_signature_is_not_asked() -> None:
    for target in ("no.such.thing", "builtins.dict", "vqseg_bundle.nothing"):
        config = {"x": None, "component": {"_target_": target, "size": "@x"}}
        assert check_arguments({"x": ("@y", None)}, ConfigParser(config)) == []


@pytest.mark.parametrize(
    "names", [("train.json",), ("train.json", "evaluate.json"), ("inference.json",), ("train.json", "train_3d.json")]
)
def test_every_plain_value_of_the_configurations_suits_its_takers(names: tuple[str, ...]) -> None:
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / name) for name in names]))
    parts = dict(_entries(parser.get()))
    assert len(parts) > 200
    assert check_arguments({id_: ("@usual", value) for id_, value in parts.items()}, parser) == []


def _entries(config: Any, id_: str = "") -> list[tuple[str, Any]]:
    below = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    found = [(id_, config)] if id_ else []
    for key, value in below:
        found += _entries(value, f"{id_}::{key}" if id_ else str(key))
    return found
