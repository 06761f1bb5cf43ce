"""Overlays of one another: what two of them set differently is said, and a key that nothing reads is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow
from support.bundle_runs import CONFIGS, ROOT, TWO_STEPS, CohortFolder, refused

from vqseg_bundle.bundle.settings.overlay_keys import unread_keys
from vqseg_bundle.bundle.settings.overlay_order import overruled_settings, undone_parts
from vqseg_bundle.bundle.settings.running_workflow import WorkflowCall

TRAIN, BASELINES = ROOT / "configs" / "train.json", ROOT / "configs" / "baselines"


def test_two_methods_in_one_training_are_named_with_what_they_set_differently() -> None:
    (sentence,) = overruled_settings([TRAIN, BASELINES / "mean_teacher.json", BASELINES / "unimatch.json"])
    assert sentence == (
        "mean_teacher.json and unimatch.json give other values for lambda_u, ramp_up_share, unlabeled_streams: those "
        "of unimatch.json, the later one, hold. Leave one out if they are two methods."
    )


def test_an_evaluation_takes_the_network_from_the_training_s_record() -> None:
    (sentence,) = undone_parts([TRAIN, CONFIGS / "supervised.json", CONFIGS / "evaluate.json"])
    assert sentence == (
        "evaluate.json takes network_def from the model.json of the training, whatever supervised.json sets as "
        "network_def#num_embeddings: leave supervised.json out."
    )


def test_overlays_that_agree_or_only_override_the_training_are_silent() -> None:
    files = [TRAIN, ROOT / "configs" / "supervised.json", ROOT / "configs" / "pfa.json"]
    assert overruled_settings(files) == []
    assert overruled_settings([TRAIN, BASELINES / "ua_mt.json", ROOT / "configs" / "supervised.json"]) == []


OVERLAYS = sorted(path for path in CONFIGS.rglob("*") if path.suffix in (".json", ".yaml") and path.stem != "metadata")


def unread(*files: Path, run_id: str = "run", former: tuple[str, ...] = ()) -> list[str]:
    workflow = ConfigWorkflow([str(path) for path in files], logging_file=False, run_id=run_id)
    call = WorkflowCall(workflow, tuple(map(str, files)), [], [], {})
    return unread_keys(call, former, workflow.parser.get())


def test_a_mistyped_key_of_an_overlay_is_refused_with_the_nearest_ones(
    shared_cohort: CohortFolder, tmp_path: Path
) -> None:
    overlay = tmp_path / "bad_key.json"
    overlay.write_text(json.dumps({"perturb_probb": 0.1, "lambda_u": 0.5}))
    message = r"bad_key\.json: unknown key 'perturb_probb', which nothing in the configuration reads\. Did you mean "
    settings = {"dataset_dir": str(shared_cohort.root), **TWO_STEPS}
    refused(tmp_path / "out", f"{message}.*perturb_prob", "training", "train.json", overlay, **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.name)
def test_every_overlay_of_the_bundle_is_read(path: Path) -> None:
    of_inference = path.stem.startswith("inference")
    bases = [CONFIGS / "inference.json"] if of_inference else [TRAIN]
    bases += [CONFIGS / "evaluate.json"] if path.stem in ("multi_gpu_evaluate", "federated_evaluate") else []
    assert unread(*bases, path) == []
    if not of_inference:
        assert unread(*bases, path, CONFIGS / "plan.json", run_id="planning") == []
        assert unread(*bases, path, CONFIGS / "evaluate.json", run_id="evaluating") == []


@pytest.mark.parametrize(
    "content",
    [
        {"_meta_": {"version": "1"}, "_comment": "why", "run_name": "first", "tracking": "mlflow", "finalize": []},
        {"own": 0.5, "lambda_u": "$@own * 2"},
        {"own": 0.5, "+strong_transforms": [{"_target_": "RandGaussianNoised", "keys": "image", "std": "@own"}]},
        {"own": {"_target_": "builtins.dict"}, "start": {"_target_": "builtins.list", "names": ["own"]}},
        {"own": ["$print(@seed)"], "+imports": ["$import json"]},
        {"mirror_axes": [0]},
        {**ConfigParser.load_config_file(str(CONFIGS / "inference.json")), "own": 3},
    ],
)
def test_keys_that_something_reads_may_be_new(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "own.json").write_text(json.dumps(content))
    assert unread(TRAIN, tmp_path / "own.json", CONFIGS / "evaluate.json") == []


@pytest.mark.parametrize("key", ["own", "+owns", "own#part", "lambda_U"])
def test_keys_that_nothing_reads_are_named(tmp_path: Path, key: str) -> None:
    (tmp_path / "own.json").write_text(json.dumps({"own": {"part": 1}, key: 1} if "#" in key else {key: 1}))
    (sentence,) = unread(TRAIN, tmp_path / "own.json")
    assert f"own.json: unknown key '{key.lstrip('+').partition('#')[0]}', which nothing" in sentence
    assert unread(TRAIN, tmp_path / "own.json", former=("own", "owns", "lambda_U")) == []
