"""from __future__ import annotations"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow
from support.bundle_runs import ROOT, TINY, CohortFolder, Result, as_arguments, command_here, run_command

from vqseg_bundle.bundle import running_parser
from vqseg_bundle.bundle.settings.overrides import adapt_tracking
from vqseg_bundle.bundle.settings.running_workflow import typed_words

ADDED = {"_target_": "MLFlowHandler", "tracking_uri": "@tracking_uri", "artifacts": "@save_execute_config"}


def test_the_added_handler_gets_the_settings_and_monais_default_stays() -> None:
    default = dict(ADDED)
    config = {"tracking_handler": {"artifacts": ["a"]}, "train": {"handlers": [{"_target_": "StatsHandler"}, default]}}
    parser = ConfigParser(config)
    adapt_tracking(parser)
    assert parser.get("train#handlers") == [{"_target_": "StatsHandler"}, {**ADDED, "artifacts": ["a"]}]
    assert default == ADDED


@pytest.mark.parametrize("config", [{"train": {"handlers": [ADDED]}}, {"tracking_handler": {"artifacts": ["a"]}}])
def test_without_settings_or_handlers_nothing_changes(config: dict) -> None:
    parser = ConfigParser(config)
    adapt_tracking(parser)
    assert parser.get() == ConfigParser(config).get()


def test_a_tracked_training_stores_losses_scores_and_files(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    overrides = {"dataset_dir": shared_cohort.root, "output_dir": tmp_path / "out", **TINY}
    overrides |= {"max_iterations": 12, "iterations_per_epoch": 6, "tracking": "mlflow", "run_name": "first"}
    result = command_here("run", "training", "--config_file", "configs/train.json", *as_arguments(overrides))
    assert result.returncode == 0, result.stdout + result.stderr
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'out' / 'mlruns.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("vqseg_bundle").experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params == {"max_epochs": "2", "epoch_length": "6"}
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss_total")] == [10]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val_mean_dice")] == [1, 2]
    assert {"codebook_usage", "pseudo_label_share", "train_mean_dice", "lr_group_0"} <= set(run.data.metrics)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"config.json", "progress.png"}
    assert not list((tmp_path / "out").glob("config_*.json"))


TRAIN = {
    "imports": ["$import sys", "$import json", "$import vqseg_bundle.bundle as vqseg"],
    "bundle_root": ".",
    "dataset_dir": "data",
    "step_count": 10,
    "amp": True,
    "foundation_model": "none",
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$[torch.zeros(1, requires_grad=True)]", "lr": 0.1},
    "train": {"trainer": {"_target_": "builtins.dict", "max_epochs": 3}, "weights": {"align": 1.0}},
    "initialize": [
        "$sys.path.insert(0, @bundle_root)",
        "$__import__('vqseg_bundle.bundle').bundle.prepare_overrides()",
        "$vqseg.exit_cleanly(vqseg.check_writable, @bundle_root)",
    ],
    "values": {
        "dataset_dir": "@dataset_dir",
        "step_count": "@step_count",
        "amp": "@amp",
        "foundation_model": "@foundation_model",
        "trainer": "$dict(@train#trainer)",
        "weights": "@train#weights",
        "nesterov": "$@optimizer.defaults['nesterov']",
    },
    "run": ["$sys.stdout.write('VALUES ' + json.dumps(@values) + chr(10))"],
}


@pytest.fixture
def train_json(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle" / "configs" / "train.json", TRAIN)


def write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))
    return path


def run(folder: Path, *arguments: str) -> Result:
    return command_here("run", *arguments, cwd=folder)


def printed(result: Result) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("VALUES ")]
    return json.loads(line.removeprefix("VALUES "))


def values(config_file: Path | list[Path], **overrides: Any) -> dict[str, Any]:
    files = [str(path) for path in config_file] if isinstance(config_file, list) else str(config_file)
    overrides.setdefault("bundle_root", str(ROOT))
    workflow = create_workflow(config_file=files, **overrides)
    return workflow.parser.get_parsed_content("values")


def test_unknown_keys_end_the_command_with_names_and_no_traceback(train_json: Path) -> None:
    arguments = ["--step_coun", "5", "--train#weights#aling", "2", "--optimizer#nesterow", "True", "--qqq", "1"]
    words = ["run", "trainning", "--config_file", "train.json", "--bundle_root", str(ROOT), *arguments]
    result = run_command(*words, cwd=train_json.parent)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "Unknown key '--step_coun'. Did you mean step_count" in result.stderr
    assert "Unknown key '--train#weights#aling'. Did you mean train#weights#align" in result.stderr
    assert "Unknown key '--optimizer#nesterow'. Did you mean optimizer#nesterov" in result.stderr
    assert "Unknown key '--qqq'. Known: amp, bundle_root, dataset_dir, foundation_model" in result.stderr
    assert "Unknown id 'trainning' to run. Did you mean train" in result.stderr
    assert "Configuration: train.json." in result.stderr
    assert "VALUES" not in result.stdout


def test_words_mean_what_they_say_with_overlays_and_from_another_folder(train_json: Path, tmp_path: Path) -> None:
    overlay = write(
        train_json.parent / "more.yaml", {"added": 1, "train#trainer#max_epochs": 7, "foundation_model": "x"}
    )
    found = printed(
        run(
            tmp_path,
            *("--config_file", f"['{train_json}','{overlay}']", "--bundle_root", str(ROOT), "--added", "2"),
            *("--dataset_dir", "None", "--step_count", "none", "--amp", "false", "--foundation-model", "None"),
            *("--train::weights::align", "None", "--optimizer#nesterov", "false", "--train#trainer#seed", "true"),
        )
    )
    assert found == {
        "dataset_dir": None,
        "step_count": None,
        "amp": False,
        "foundation_model": "none",
        "trainer": {"max_epochs": 7, "seed": True},
        "weights": {"align": None},
        "nesterov": False,
    }


def test_an_args_file_and_the_workflow_arguments_pass(train_json: Path, tmp_path: Path) -> None:
    arguments = {"config_file": str(train_json), "bundle_root": str(ROOT), "amp": "false", "run_id": "run"}
    args_file = write(tmp_path / "args.json", arguments)
    tracking = ["--experiment_name", "a", "--run_name", "b", "--tracking_uri", "c", "--save_execute_config", "False"]
    workflow = [
        "--init_id",
        "initialize",
        "--final_id",
        "finalize",
        "--_meta_#version",
        "1",
        "--workflow_type",
        "train",
    ]
    meta = write(train_json.parent / "metadata.json", {"version": "0"})
    found = printed(
        run(tmp_path, "--args_file", str(args_file), "--meta_file", str(meta), "--amp", "true", *tracking, *workflow)
    )
    assert found["amp"] is True
    assert found["dataset_dir"] == "data"


def test_from_code_words_are_converted_and_none_is_ignored(train_json: Path) -> None:
    found = values(train_json, dataset_dir=None, amp="false", step_count=5, foundation_model="none")
    assert found["dataset_dir"] == "data"
    assert found["amp"] is False
    assert found["step_count"] == 5
    assert found["foundation_model"] == "none"


def test_from_code_an_unknown_key_is_refused(train_json: Path) -> None:
    with pytest.raises(SystemExit, match=r"Unknown key '--dataset_dirs'\. Did you mean dataset_dir"):
        values(train_json, dataset_dirs="elsewhere")


def test_an_overlay_that_would_undo_an_earlier_one_is_refused(train_json: Path, tmp_path: Path) -> None:
    part = write(tmp_path / "part.json", {"optimizer#nesterov": True, "optimizer#momentum": 0.9})
    whole = write(tmp_path / "whole.json", {"optimizer": {**TRAIN["optimizer"], "dampening": 0.0}})
    message = (
        r"whole\.json sets all of optimizer, and would undo optimizer#nesterov of part\.json before it\. Give "
        r"whole\.json first\."
    )
    with pytest.raises(SystemExit, match=message):
        values([train_json, part, whole])
    assert values([train_json, whole, part])["nesterov"] is True


def test_a_key_added_by_an_overlay_is_known_only_with_it(train_json: Path) -> None:
    overlay = write(train_json.parent / "more.json", {"extra_steps": 1, "train#weights#contrast": 0.5})
    found = values([train_json, overlay], extra_steps=2, **{"train#weights#contrast": 0.25})
    assert found["weights"] == {"align": 1.0, "contrast": 0.25}
    with pytest.raises(SystemExit, match="Unknown key '--extra_steps'"):
        values(train_json, extra_steps=2)


@pytest.mark.parametrize("key", ["_disabled_", "_desc_", "momentum"])
def test_further_entries_of_a_component_are_known(train_json: Path, key: str) -> None:
    workflow = create_workflow(config_file=str(train_json), bundle_root=str(ROOT), **{f"optimizer#{key}": 0})
    assert workflow.parser.get(f"optimizer#{key}") == 0


def test_a_workflow_made_in_code_is_left_alone(train_json: Path) -> None:
    workflow = ConfigWorkflow(
        str(train_json), bundle_root=str(ROOT), of_the_application=3, amp="false", dataset_dir=None
    )
    workflow.initialize()
    assert workflow.parser.get("of_the_application") == 3
    found = workflow.parser.get_parsed_content("values")
    assert found["amp"] == "false"
    assert found["dataset_dir"] is None


def test_a_workflow_made_by_another_one_is_not_judged_by_its_overrides(train_json: Path) -> None:
    inner = write(train_json.parent / "inner.json", {"initialize": TRAIN["initialize"][1]})
    overlay = {"initialize": f"$monai.bundle.ConfigWorkflow('{inner}').initialize()"}
    outer = write(train_json.parent / "outer.json", overlay)
    assert values([train_json, outer], step_count=4)["step_count"] == 4


def test_running_parser_gives_the_configuration_as_run(train_json: Path) -> None:
    overlay = write(
        train_json.parent / "more.json",
        {
            "imports": ["$import vqseg_bundle.bundle as vqseg"],
            "initialize": "$vqseg.running_parser().get().update(seen=@step_count)",
        },
    )
    workflow = create_workflow(config_file=[str(train_json), str(overlay)], step_count=3)
    assert workflow.parser.get("seen") == 3
    with pytest.raises(RuntimeError, match="works only inside a config expression"):
        running_parser()


NAMES = ["20240131", "2024_02", "007", "1e5", "(a,b)", "[x]", "true", "-0"]


@pytest.mark.parametrize("name", NAMES)
def test_what_was_typed_is_read_off_the_command_line(name: str) -> None:
    assert typed_words(["run", f"--dataset-dir={name}", "--amp", "--seed", "3"]) == {
        "dataset_dir": name,
        "seed": "3",
    }
    assert typed_words(["--dataset_dir", "first", "--dataset_dir", name])["dataset_dir"] == name


def test_a_key_without_a_word_has_none_and_one_dash_will_do() -> None:
    assert typed_words(["-dataset_dir", "7", "--amp", "-s", "--seed"]) == {"dataset_dir": "7"}


# a decomposed accent, which Python would compose in a name
@pytest.mark.parametrize("word", ["--dataset_dir=2024_02", "--dataset-dir=(a,b)", "--dataset_dir=e\u0301te\u0301"])
def test_a_folder_is_called_what_was_typed(train_json: Path, word: str) -> None:
    found = printed(run(train_json.parent, "--config_file", "train.json", "--bundle_root", str(ROOT), word))
    assert found["dataset_dir"] == word.partition("=")[2]


def test_quotes_may_be_typed_and_a_comment_is_none(train_json: Path) -> None:
    words = ("--config_file", "train.json", "--bundle_root", str(ROOT))
    assert printed(run(train_json.parent, *words, "--dataset_dir", "'2024'"))["dataset_dir"] == "2024"
    result = run(train_json.parent, *words, "--dataset_dir", "scan#1")
    assert "--dataset_dir: expected a path without #, which MONAI would read as ::, found 'scan#1'" in result.stderr
    result = run(train_json.parent, *words, "--dataset_dir")
    assert "--dataset_dir: expected a path, found True." in result.stderr
    result = run(train_json.parent, *words, "--dataset_dir", "-x")
    assert "found True. Give a path, in a file in quotes, and ./-x for a name such as -x." in result.stderr


def test_quotes_in_the_name_of_a_folder_are_typed_as_they_are(train_json: Path) -> None:
    words = ("--config_file", "train.json", "--bundle_root", str(ROOT))
    for name in ("q", "'q'", '"d"'):
        (train_json.parent / name).mkdir()
    for word, found in (("'q'", "'q'"), ('"q"', "q"), ('"d"', '"d"')):
        assert printed(run(train_json.parent, *words, "--dataset_dir", word))["dataset_dir"] == found


def test_a_path_in_a_file_or_from_code_is_text(train_json: Path) -> None:
    assert values(train_json, dataset_dir=Path("x"))["dataset_dir"] == Path("x")
    with pytest.raises(SystemExit, match=r"--dataset_dir: expected a path, found 20240131\. Give a path, in a file"):
        values(train_json, dataset_dir=20240131)


@pytest.mark.parametrize("path", ["$x", "@x"])
def test_a_path_is_not_evaluated(train_json: Path, path: str) -> None:
    words = ("--config_file", "train.json", "--bundle_root", str(ROOT), "--dataset_dir", path)
    result = run(train_json.parent, *words)
    assert result.returncode == 1
    assert f"--dataset_dir: expected a path, found '{path}', which MONAI would evaluate" in result.stderr
    assert "Traceback" not in result.stderr
