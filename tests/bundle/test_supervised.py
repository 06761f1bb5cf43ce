"""What supervised.json changes: the same U-Net on the same images, without VQ-Seg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from support.bundle_runs import CONFIGS, TWO_STEPS, CohortFolder, loss_terms, places_of, run_here

CHANGED = {"lambda_reconstruction": 0.0, "unlabeled_data": [], "network_def#num_embeddings": None}


def test_supervised_changes_the_documented_ids_alone() -> None:
    files = [str(CONFIGS / name) for name in ("train.json", "supervised.json")]
    assert ConfigParser.load_config_file(files[1]) == CHANGED
    merged, default = ConfigParser.load_config_files(files), ConfigParser.load_config_file(files[0])
    for key, value in CHANGED.items():
        *parents, last = key.split("#")
        section = merged
        for parent in parents:
            section = section[parent]
        assert section[last] == value
        whole = default
        for parent in parents:
            whole = whole[parent]
        section[last] = whole[last]
    assert merged == default


@pytest.fixture(scope="module")
def pair(shared_cohort: CohortFolder, tmp_path_factory: pytest.TempPathFactory) -> list[ConfigParser]:
    folder = tmp_path_factory.mktemp("pair")
    settings = {key: value for key, value in TWO_STEPS.items() if key not in CHANGED}
    return [
        run_here("training", *configs, **places_of(shared_cohort, folder / str(len(configs))), **settings)
        for configs in (["train.json"], ["train.json", "supervised.json"])
    ]


@pytest.mark.parametrize("part", ["encoder", "segmentation_decoder"])
def test_the_supervised_baseline_is_the_same_u_net(pair: list[ConfigParser], part: str) -> None:
    whole, baseline = (getattr(parser.get_parsed_content("network"), part) for parser in pair)
    assert str(whole) == str(baseline)
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (whole, baseline)]
    assert shapes[0] == shapes[1]


def test_the_supervised_baseline_has_nothing_of_vqseg(pair: list[ConfigParser]) -> None:
    baseline = pair[1].get_parsed_content("network")
    assert baseline.quantizer is None
    assert baseline.reconstruction_decoder is None
    assert pair[1].get_parsed_content("perturbation") is None
    assert {key.split(".")[0] for key in baseline.state_dict()} == {"encoder", "segmentation_decoder"}
    trainer = pair[1].get_parsed_content("train#trainer")
    assert trainer.unlabeled_data_loader is None
    found = loss_terms(pair[1])
    assert found["total"] == pytest.approx(found["labeled_segmentation"])


def test_the_start_says_which_cases_are_not_used(pair: list[ConfigParser]) -> None:
    logs = [(Path(parser.get_parsed_content("ckpt_dir")) / "training.log").read_text() for parser in pair]
    assert "2 unlabelled cases are not used, as unlabeled_data is []: training is supervised" in logs[1]
    assert not any("no unlabelled cases" in log for log in logs)
    assert "not used" not in logs[0]


def test_the_supervised_baseline_trains_as_long_and_alike(pair: list[ConfigParser]) -> None:
    trained = [_training_of(parser) for parser in pair]
    assert trained[0] == trained[1]
    assert trained[0]["iterations"] == 2


def test_the_supervised_baseline_sees_the_same_augmentation(pair: list[ConfigParser]) -> None:
    drawn = []
    for parser in pair:
        augment = parser.get_parsed_content("train#preprocessing").set_random_state(seed=5)
        drawn.append([augment(case) for case in parser.get_parsed_content("train#dataset").data * 4])
    for whole, baseline in zip(*drawn, strict=True):
        for key in ("image", "strong", "label"):
            torch.testing.assert_close(baseline[key], whole[key], rtol=0, atol=0)
    assert not torch.equal(drawn[0][0]["strong"], drawn[0][2]["strong"])


def _training_of(parser: ConfigParser) -> dict[str, Any]:
    trainer = parser.get_parsed_content("train#trainer")
    optimizer = trainer.optimizer
    loader = trainer.data_loader
    return {
        "iterations": trainer.state.iteration,
        "seed": parser.get_parsed_content("seed"),
        "optimizer": (type(optimizer), optimizer.defaults),
        "schedule": parser.get_parsed_content("lr_scheduler").state_dict()["total_iters"],
        "max_grad_norm": trainer.max_grad_norm,
        "decay": trainer.teacher.decay,
        "data": [case["image"] for case in parser.get_parsed_content("train#dataset").data],
        "batches": (loader.batch_size, loader.sampler.num_samples),
        "segmentation_loss": str(trainer.loss_function.segmentation_loss),
    }
