"""A leading ~ is the user's folder on the command line, where no shell expands it, and from Python."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, create_workflow
from support.bundle_runs import ROOT, command_here

from vqseg_bundle import load, segment, train
from vqseg_bundle.bundle import python_interface
from vqseg_bundle.commands.watch import watch

CONFIG = {
    "imports": ["$import sys"],
    "bundle_root": ".",
    "dataset_dir": None,
    "checkpoint": None,
    "initialize": [
        "$sys.path.insert(0, @bundle_root)",
        "$__import__('vqseg_bundle.bundle').bundle.prepare_overrides()",
    ],
    "run": ["$print('DATASET', @dataset_dir)"],
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A configuration in the working folder; the user's folder is beside it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path / "here" / "config.json")


def value(config: str, key: str, given: str) -> Any:
    workflow = create_workflow(config_file=config, bundle_root=str(ROOT), **{key: given})
    return workflow.parser.get_parsed_content(key)


@pytest.mark.parametrize(
    ("typed", "found"), [("~/OUT", "home/OUT"), ("~", "home"), ("./~", "here/~"), ("./~/x", "here/~/x")]
)
def test_it_is_expanded_as_typed_and_from_code(config: str, tmp_path: Path, typed: str, found: str) -> None:
    words = ("--config_file", config, "--bundle_root", str(ROOT), f"--dataset_dir={typed}")
    result = command_here("run", *words, cwd=tmp_path / "here")
    assert f"DATASET {tmp_path / found}\n" in result.stdout, result.stderr
    assert value(config, "dataset_dir", typed) == str(tmp_path / found)


def test_a_sign_within_a_path_is_left(config: str) -> None:
    assert value(config, "dataset_dir", "a/~") == "a/~"


def test_it_is_expanded_in_each_of_several_weights(config: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert value(config, "checkpoint", "~/a.pt, b.pt,~/c.pt") == f"{home}/a.pt,b.pt,{home}/c.pt"
    home.mkdir()
    (home / "a,~b.pt").touch()
    assert value(config, "checkpoint", "~/a,~b.pt") == f"{home}/a,~b.pt"


def test_it_is_the_same_for_training_segmenting_and_loading(
    config: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    called: list[dict[str, Any]] = []

    def run(*_: Any, **keys: Any) -> ConfigParser:
        called.append(keys)
        return ConfigParser({"prediction_dir": "predictions"})

    monkeypatch.setattr(python_interface, "_run", run)
    assert train("~/OUT", dataset_dir="DIR") == home / "OUT"
    assert train("./~", dataset_dir="DIR") == tmp_path / "here" / "~"
    segment("~/volumes", "~/OUT")
    assert [keys["output_dir"] for keys in called] == [f"{home}/OUT", f"{tmp_path}/here/~", f"{home}/OUT"]
    assert called[2]["dataset_dir"] == f"{home}/volumes"
    for run_folder in ("~/OUT", "./~"):
        message = f"{train(run_folder)}: there are no trained weights"
        with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}"):
            load(run_folder)


def test_a_watch_expands_it(config: str, tmp_path: Path) -> None:
    (tmp_path / "home" / "in").mkdir(parents=True)
    message = f"checkpoint '{tmp_path}/home/m.pt' is not a file: give the path of a trained model.pt."
    with pytest.raises(SystemExit, match=f"^{re.escape(message)}$"):
        watch({"dataset_dir": "~/in", "output_dir": "~/out", "checkpoint": "~/m.pt"})
