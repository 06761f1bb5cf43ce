"""The ids of the configurations: none is addressed by its position, and docs/configuration.md has them all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.bundle_runs import CONFIGS, ROOT, refused

TEXTS = sorted(
    path
    for folder in ("configs", "docs", "scripts", "tests", "vqseg_bundle")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".json", ".md", ".py", ".yaml") and not {"results", "former_runs"} & set(path.parts)
)
BY_POSITION = re.compile(r"\w*(?:transforms|handlers|_crop)\b(?:[\"']?\]\[|\[|#|::)-?[\d:]")


def test_nothing_is_addressed_by_its_position() -> None:
    """Neither by ids nor in expressions and code; a list of transforms or handlers may grow."""
    found = [(path.name, BY_POSITION.findall(path.read_text(encoding="utf-8"))) for path in TEXTS]
    assert len(found) > 200
    assert [entry for entry in found if entry[1]] == []


@pytest.mark.parametrize("text", ["train#handlers#{}", "a::handlers::{}", "@x_transforms[{}:-1]", 'c["x_crop"][{}]'])
def test_an_address_by_position_is_found(text: str) -> None:
    assert BY_POSITION.search(text.format(1))
    assert not BY_POSITION.search(text.format("name"))


def test_an_overlay_of_an_earlier_version_is_not_ignored(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"+label_transforms": [], "trained": "@training_module"}))
    message = (
        r"'trained' of version 0\.7 and before is now train#trainer#network\.\n'label_transforms' of .* is now vol"
    )
    refused(tmp_path / "out", message, "training", "train.json", overlay)


ROW = re.compile(r"^\| `([^`]+)` \|(?: `(.+?)` \|)?(?: `(.+?)` \|)? (.+) \|$", re.MULTILINE)


def test_the_reference_has_every_key_with_its_default_in_the_file_s_order() -> None:
    config = json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))
    settings, others, components = _sections(ROOT / "docs" / "configuration.md")
    defaults = {key: json.loads(default) for key, default, _, _ in settings}
    assert defaults == {key: config[key] for key in defaults}
    described = [key for key, _, _, _ in components]
    for keys in (list(defaults), described):
        assert keys == [key for key in config if key in keys]
    assert sorted([*defaults, *described]) == sorted(config)
    for name, key, default, _ in others:
        assert json.loads((CONFIGS / name).read_text(encoding="utf-8"))[key] == json.loads(default), name


def test_the_reference_has_every_new_key_of_an_overlay() -> None:
    config = json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))
    others = {(name, key) for name, key, _, _ in _sections(ROOT / "docs" / "configuration.md")[1]}
    for path in sorted(CONFIGS.rglob("*.json")):
        if path.stem in ("train", "inference", "inference_trt", "metadata"):
            continue
        own = json.loads(path.read_text(encoding="utf-8")).items()
        new = {key for key, value in own if "#" not in key and key not in config and not _is_component(value)}
        assert {key for name, key in others if name == path.name} >= {key.lstrip("+") for key in new} - {
            "imports",
            "evaluating",
            "planning",
        }


def _sections(document: Path) -> list[list[tuple[str, str, str, str]]]:
    text = document.read_text(encoding="utf-8")
    _, settings, others, components = re.split(r"^## .*$", text, flags=re.MULTILINE)
    return [[(a, b, c, d) for a, b, c, d in ROW.findall(part)] for part in (settings, others, components)]


def _is_component(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, str) and value.startswith(("$", "@")))
