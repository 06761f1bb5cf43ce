"""One table says which values a setting may have; every other one is refused by a message that names the key."""

from __future__ import annotations

import math
from typing import Any

import pytest
from monai.bundle import ConfigParser
from support.bundle_runs import CONFIGS

from vqseg_bundle.bundle.settings.setting_table import NESTED_SETTINGS, SETTINGS, check_kinds, check_values

#: no setting may be any of these
SENSELESS = ["text", [], {}, [1], float("nan"), float("inf"), -1, 1e30, b"x"]
#: settings with one of them among their values
TEXTS = {"device"}


@pytest.mark.parametrize("value", SENSELESS, ids=str)
@pytest.mark.parametrize("key", sorted(SETTINGS))
def test_a_senseless_value_is_refused_by_its_key(key: str, value: Any) -> None:
    unbounded = key.startswith("lambda_") or "a positive number" in SETTINGS[key].expected
    if (key in TEXTS and value == "text") or (unbounded and value == 1e30):
        assert check_values({key: value}) == []
    else:
        (found,) = check_values({key: value})
        assert found.startswith(f"--{key}: expected {SETTINGS[key].expected}")


@pytest.mark.parametrize(
    "key, value",
    [
        ("learning_rate", 0),
        ("learning_rate", True),
        ("max_iterations", 2.5),
        ("max_iterations", 0),
        ("labeled_batch_size", 0),
        ("seed", 2**32),
        ("cache_rate", 1.5),
        ("ema_decay", 1),
        ("amp", 1),
        ("spatial_dims", 4),
        ("evaluation_split", "training"),
    ],
)
def test_a_value_out_of_range_is_refused(key: str, value: Any) -> None:
    assert check_values({key: value}) == [
        f"--{key}: expected {SETTINGS[key].expected}, found {value!r}.",
    ]


@pytest.mark.parametrize("value", ["quantized", [True, "quantized"], False])
def test_skip_connections_may_be_all_that_the_network_takes(value: Any) -> None:
    assert check_kinds({"network_def::skip_connections": (True, value)}) == []


@pytest.mark.parametrize("value", SENSELESS, ids=str)
@pytest.mark.parametrize("key", sorted(NESTED_SETTINGS))
def test_a_senseless_part_of_a_component_is_refused_by_its_key(key: str, value: Any) -> None:
    if value == 1e30 and "a positive number" in NESTED_SETTINGS[key].expected:
        assert check_values({key: value}) == []
    else:
        (found,) = check_values({key: value})
        assert found.startswith(f"--{key}: expected {NESTED_SETTINGS[key].expected}")


@pytest.mark.parametrize(
    "usual, value, expected",
    [
        ([{"_target_": "x"}], [], "at least one entry"),
        ({"a": 1}, {}, "at least one entry"),
        ("@loader", [], "at least one entry"),
        (5, math.nan, "a finite number"),
        (None, -math.inf, "a finite number"),
        ([], [], ""),
        ("$list", [], ""),
        ([1], [2], ""),
        ([1], "@other", ""),
    ],
)
def test_nothing_and_what_is_no_number_never_stand_for_what_is_usual(usual: Any, value: Any, expected: str) -> None:
    text = f"--a#b: expected {expected}, as in the configuration, found {value!r}. Give one, or leave --a#b out."
    assert check_kinds({"a::b": (usual, value)}) == ([text] if expected else [])


def test_expressions_and_optional_values_pass() -> None:
    assert check_values({"amp": "$True", "seed": "@other", "inference_memory_gb": None, "unknown": "x"}) == []
    assert check_values({"seed": None}) == [f"--seed: expected {SETTINGS['seed'].expected}, found None."]


def test_the_configurations_themselves_pass_and_have_every_key_of_the_table() -> None:
    found = [path for path in CONFIGS.rglob("*") if path.suffix in (".json", ".yaml") and path.stem != "metadata"]
    contents = [ConfigParser.load_config_file(path) for path in found]
    assert [check_values(content) for content in contents] == [[]] * len(found)
    assert set(SETTINGS) <= set().union(*contents)
    train = ConfigParser(ConfigParser.load_config_file(CONFIGS / "train.json"))
    used = {key: train.get(key) for key in NESTED_SETTINGS}
    assert check_values({key: value for key, value in used.items() if value is not None}) == []
    assert [key for key in used if key not in train] == []
