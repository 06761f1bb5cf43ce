"""A value that lacks what the configuration reads of its id is refused by its key, before anything else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser
from support.bundle_runs import CONFIGS, as_arguments, command_here

from vqseg_bundle.bundle.settings import setting_table as settings
from vqseg_bundle.bundle.settings.read_parts import check_parts

READING = {
    "plan": "$@planned.plan",
    "part": {"entry": {"a": 1}},
    "places": ["$@plan.b + @plan.a", "@part#entry", {"deeper": "@part#entry#a"}, "$@plan#c.d", "$@plan.a"],
    "guarded": "$@plan.e if @plan else None",
    "text": "plan.x @plan.y",
}


def lacking(id_: str, value: Any) -> str:
    """The parts that the message names."""
    config = ConfigParser({**READING})
    config[id_] = value
    lines = check_parts({id_: value}, config.get())
    if not lines:
        return ""
    (line,) = lines
    shown = id_.replace("::", "#")
    start, _, end = line.partition(", which the configuration reads of it, ")
    assert end == (f"found {value!r}. Leave --{shown} out, or give a component or an expression that has them.")
    return start.removeprefix(f"--{shown}: expected something with ")


@pytest.mark.parametrize(
    "id_, value, expected",
    [
        ("plan", {}, "b, a, c, e"),
        ("plan", None, "b, a, c"),
        ("plan", {"c": 1}, "b, a, e"),
        ("plan", {"_target_": "Plan"}, "c"),
        ("plan", {"_target_": "Plan", "c": "$2"}, ""),
        ("plan", "@part", ""),
        ("plan", "$Plan()", ""),
        ("part", [], "entry"),
        ("part", {"entry": {"b": 1}}, "entry#a"),
        ("part", {"entry": {"a": None}}, ""),
        ("part::entry", 5, "a"),
        ("guarded", 5, ""),
    ],
)
def test_parts_that_a_value_lacks_are_named_once_in_the_order_of_reading(id_: str, value: Any, expected: str) -> None:
    assert lacking(id_, value) == expected


def test_many_parts_are_counted() -> None:
    config = {"a": {}, "b": [f"$@a.x{number}" for number in range(9)]}
    assert "something with x0, x1, x2, x3 and 5 more, which" in check_parts({"a": {}}, config)[0]


@pytest.mark.parametrize(
    "names", [("train.json",), ("train.json", "evaluate.json"), ("inference.json",), ("train.json", "train_3d.json")]
)
def test_every_value_of_the_configurations_has_what_is_read_of_it(names: tuple[str, ...]) -> None:
    config = ConfigParser.load_config_files([str(CONFIGS / name) for name in names])
    parts = {f"{key}::{part}": value for key in config for part, value in _entries(config[key])}
    assert len(parts) > 50
    assert check_parts({**config, **parts}, config) == []


def _entries(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("optimizer", "none", "something of type Optimizer, which PolynomialLR takes as optimizer, found none"),
        ("pseudo_labeler", "5", "something of type PseudoLabeler or none, which SemiSupervisedTrainer takes as"),
        ("preprocessing_record", "5", "a mapping, which"),
        ("train#dataloader", "none", "a list or something of type DataLoader, which SemiSupervisedTrainer takes as"),
        ("train#handlers", "5", "a list, as in the configuration, found 5"),
        ("validate#inferer", "none", "a value, as in the configuration, found none"),
        ("plan", "{}", r"something with cache_rate, cache_on_disk, spatial_dims, intensity_window and \d+ more"),
        ("plan", "none", "something with cache_rate"),
        ("plan", "5", "something with cache_rate"),
        ("planned", "none", "something with plan, fingerprint, warnings"),
        ("cohort", "{}", "a component, as in the configuration"),
        ("cohort", "none", "something with listed"),
        ("network", "{}", "something with quantizers, quantizer"),
        ("teacher", "[]", "a component, as in the configuration"),
        ("train", "{}", "at least one entry, as in the configuration"),
        ("train", "{'handlers':[]}", "something with dataset, trainer, codebook_evaluator"),
        ("validate", "[]", "at least one entry, as in the configuration"),
        ("validate", "none", "something with preprocessing, dataset, evaluator, inferer"),
        ("rank", "{}", "a whole number from 0"),
    ],
)
def test_a_command_ends_in_one_line_with_the_key(tmp_path: Path, key: str, value: str, expected: str) -> None:
    words = as_arguments({"output_dir": tmp_path / "out", key: value})
    result = command_here("run", "training", "--config_file", "configs/train.json", *words)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert re.match(rf"--{key}: expected {expected}", line)
    assert not list(tmp_path.iterdir())


def test_no_configuration_replaces_by_none_what_may_not_be_none() -> None:
    for path in CONFIGS.rglob("*.json"):
        config = ConfigParser(ConfigParser.load_config_file(str(path)))
        assert not [id_ for id_ in settings._NEVER_NONE if id_ in config and config[id_] is None], path
