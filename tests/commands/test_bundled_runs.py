"""Which runs become bundles, and what a bundle takes of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from support.bundle_runs import FORMER_CONFIGS, ROOT, Trained, read_json, run_here

from vqseg_bundle.commands import bundle as make_bundle
from vqseg_bundle.commands.deploying.bundle_configs import find_local_paths, training_config
from vqseg_bundle.commands.deploying.run_folder import open_run


def test_what_a_run_took_from_its_place_is_taken_back(trained: Trained) -> None:
    run = open_run(trained.output_dir)
    run.config["foundation_weights"] = "/somewhere/else.pth"
    run.config["labels_file"] = "/somewhere/labels.json"
    run.config["train"]["handlers"].append({"_target_": "MLFlowHandler", "tracking_uri": "/somewhere/mlruns"})
    run.record["labels"][2] = 'core "@" 2'
    default, processes = ({"tracking_uri": None, "cache_rate": "$@plan.cache_rate"}, {"distributed": 1})
    assert run.config["cache_rate"] == 1.0
    config = training_config(run, default, processes)
    assert config["cache_rate"] == "$@plan.cache_rate"
    assert (config["foundation_weights"], config["dataset_dir"], config["datalist"]) == (None, None, None)
    assert list(find_local_paths(config)) == ["labels_file"]
    assert len(config["train"]["handlers"]) == len(run.config["train"]["handlers"]) - 1
    assert ConfigParser(config).get_parsed_content("labels") == run.record["labels"]


def test_a_bundle_starts_from_its_own_weights_and_by_no_file_of_the_training(trained: Trained) -> None:
    run = open_run(trained.output_dir)
    run.config.update(initial_weights="../other/model.pt", plan_file="plan.json", allow_outside_files=True)
    default = read_json(ROOT / "configs" / "train.json")
    config = training_config(run, default, read_json(ROOT / "configs" / "multi_gpu_train.json"))
    kept = ("initial_weights", "plan_file", "resume", "resume_changed", "allow_outside_files")
    assert [config[key] for key in kept] == [None, None, False, False, False]


def test_a_run_in_several_processes_becomes_a_bundle_for_one(trained: Trained) -> None:
    run = open_run(trained.output_dir)
    default = {"device": "cpu", "train": {"sampler": "plain"}}
    processes = {"distributed": {}, "device": "$rank", "train#sampler": "shared"}
    run.config.update(distributed={}, device="cuda:0", trained="$ddp")
    run.config["train"]["sampler"] = "shared"
    config = training_config(run, default, processes)
    assert "distributed" not in config
    assert (config["device"], config["train"]["sampler"]) == ("cpu", "plain")
    assert config["trained"] == "$@training_module.to(@device)"  # of a run of 0.7


def test_an_evaluation_of_other_weights_or_data_is_no_figure_of_this_model(evaluated: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(evaluated.output_dir, folder)
    assert "test" in open_run(folder).metrics
    for name, change in (
        ("evaluation_config.json", {"checkpoint": "other.pt"}),
        ("evaluation_config.json", {"mirror_axes": [0]}),
        ("evaluation_config.json", {"largest_component": []}),
        ("evaluation_run.json", {"result": {"weights_sha256": "those before the training went on"}}),
        ("evaluation_run.json", {"data_digest": "other"}),
    ):
        before = (folder / name).read_text()
        (folder / name).write_text(json.dumps({**json.loads(before), **change}))
        assert list(open_run(folder).metrics) == ["validation"]
        (folder / name).write_text(before)


def test_a_training_that_went_on_is_described_as_it_ended(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(trained.output_dir, folder)
    config = {**read_json(folder / "config.json"), "max_iterations": 77, "resume": True, "resume_changed": True}
    (folder / "resumed_config.json").write_text(json.dumps(config))
    found = open_run(folder).config
    assert (found["max_iterations"], found["resume"], found["resume_changed"]) == (77, False, False)


def _no_weights(folder: Path) -> None:
    (folder / "model.pt").unlink()


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_record(folder: Path) -> None:
    (folder / "model.json").unlink()


def _other_weights(folder: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, folder / "model.pt")


def _cut_weights(folder: Path) -> None:
    content = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(content[: len(content) // 2])


def _stopped(folder: Path) -> None:
    state = torch.load(folder / "resume.pt", weights_only=True)
    state["engine"]["iteration"] = 4
    torch.save(state, folder / "resume.pt")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (_no_weights, "holds no model.pt: name the output_dir of a finished training"),
        (_no_config, "config.json not found: a training writes it"),
        (_no_record, "model.json not found: model.pt cannot be used without the record"),
        (_other_weights, "model.pt: these weights belong to another VQSegNet"),
        (_cut_weights, "model.pt: "),
        (_stopped, "stopped after iteration 4 of 6: let it come to its end with the same command and --resume true"),
    ],
)
def test_an_unusable_run_is_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, message: str
) -> None:
    shutil.copytree(trained.output_dir, tmp_path / "run")
    spoil(tmp_path / "run")
    with pytest.raises(SystemExit, match="2"):
        make_bundle.main(["--run", str(tmp_path / "run"), "--output", str(tmp_path / "made")])
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_of_version_0_6_is_bundled_and_may_be_told_how_its_volumes_were_oriented(
    evaluated: Trained, tmp_path: Path
) -> None:
    """One of the two test volumes is stored LAS, those of the training RAS."""
    run, bundle = tmp_path / "run", tmp_path / "old"
    shutil.copytree(evaluated.output_dir, run)
    record = read_json(run / "model.json")
    del record["preprocessing"]["orientation"], record["info"]["training_volumes"]
    record["preprocessing"]["slice_axis"] = 2
    (run / "model.json").write_text(json.dumps(record))
    shutil.copy(FORMER_CONFIGS["0.6"], run / "config.json")
    make_bundle.main(["--run", str(run), "--output", str(bundle)])
    (labels,) = (step for step in read_json(bundle / "configs" / "train.json")["load_transforms"] if "is_label" in step)
    assert labels["label_values"] == "@label_values"
    configs = [bundle / "configs" / name for name in ("train.json", "evaluate.json")]
    places = {
        "bundle_root": str(bundle),
        "dataset_dir": str(evaluated.cohort.root),
        "output_dir": str(tmp_path / "out"),
    }
    weights = str(bundle / "models" / "model.pt")
    run_here("evaluating", *configs, **places, device="cpu", checkpoint=weights, orientation="RAS")
    assert (tmp_path / "out" / "metrics.csv").read_text() == (evaluated.output_dir / "metrics.csv").read_text()
