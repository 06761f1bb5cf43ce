"""The overlay that trains the published architecture, by whole runs."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import monai
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from support.bundle_runs import CONFIGS, ROOT, CohortFolder, loss_terms, places_of, refused, run_here
from support.foundation_parts import DINOV2

from vqseg_bundle.networks import DINOv2DPTNet

TRAINING = ("train.json", "train_dinov2.json")
STEPS = {
    "patch_size": [28, 42],
    "max_iterations": 2,
    "iterations_per_epoch": 2,
    "labeled_batch_size": 2,
    "unlabeled_batch_size": 2,
    "device": "cpu",
}
SMALL = {
    **STEPS,
    "network_def#pretrained": False,
    "network_def#encoder_sizes": {"embed_dim": 16, "depth": 4, "num_heads": 2},
    "network_def#encoder_levels": [0, 1, 2, 3],
    "network_def#reassemble_channels": [4, 4, 8, 8],
    "network_def#fusion_channels": 4,
    "network_def#num_embeddings": 32,
    "network_def#reconstruction_channels": [4, 4, 8, 8],
}


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dinov2")


@pytest.fixture(scope="module")
def small(shared_cohort: CohortFolder, output_dir: Path) -> ConfigParser:
    """A training of a small random encoder."""

    def keep(parser: ConfigParser) -> None:
        state = parser.get_parsed_content("network").state_dict()
        parser["initial"] = {name: value.clone() for name, value in state.items()}

    return run_here("training", *TRAINING, before=keep, **places_of(shared_cohort, output_dir), **SMALL)


def test_it_trains_and_logs_every_term(small: ConfigParser, output_dir: Path) -> None:
    found = loss_terms(small)
    assert all(math.isfinite(value) for value in found.values())
    (row,) = csv.DictReader((output_dir / "progress.csv").read_text().splitlines())
    assert {name for name in row if name.startswith("loss_")} == {f"loss_{name}" for name in found}
    trained, initial = small.get_parsed_content("network").state_dict(), small.get_parsed_content("initial")
    for part in ("encoder.blocks.0", "encoder.blocks.3", "segmentation_decoder", "reconstruction_decoder", "quantizer"):
        names = [name for name in initial if name.startswith(part) and name.endswith("weight")]
        assert any(not torch.equal(trained[name], initial[name]) for name in names), part
    assert found["unlabeled_segmentation"] > 0
    assert found["labeled_reconstruction"] > 0
    assert type(small.get_parsed_content("network_def")) is DINOv2DPTNet
    record = json.loads((output_dir / "model.json").read_text())
    assert record["network"]["architecture"] == "DINOv2DPTNet"
    assert not [key for key in torch.load(output_dir / "model.pt", weights_only=True) if "reconstruction" in key]


def test_the_encoder_learns_at_its_own_rate(small: ConfigParser) -> None:
    encoder, rest = small.get_parsed_content("optimizer").param_groups
    assert (encoder["initial_lr"], rest["initial_lr"]) == (5e-6, 2e-4)
    assert encoder["lr"] / encoder["initial_lr"] == pytest.approx(rest["lr"] / rest["initial_lr"])
    network = small.get_parsed_content("network_def")
    assert {id(p) for p in encoder["params"]} == {id(p) for p in network.encoder.parameters()}
    both = [id(p) for group in (encoder, rest) for p in group["params"]]
    assert sorted(both) == sorted(id(p) for p in small.get_parsed_content("training_module").parameters())


def test_it_goes_on_evaluates_infers_and_exports(
    small: ConfigParser, output_dir: Path, shared_cohort: CohortFolder, tmp_path: Path
) -> None:
    where = places_of(shared_cohort, output_dir)
    checkpoint = str(output_dir / "model.pt")
    run_here("evaluating", "train.json", "evaluate.json", **where, device="cpu")
    assert json.loads((output_dir / "summary.json").read_text())["num_cases"] == 2
    folder = {"dataset_dir": str(shared_cohort.root / "images"), "output_dir": str(tmp_path / "inferred")}
    parser = run_here("inference", "inference.json", **folder, checkpoint=checkpoint, device="cpu")
    deployed = parser.get_parsed_content("network_def")
    assert deployed.reconstruction_decoder is None
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=checkpoint,
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.json"),
        bundle_root=str(ROOT),
        checkpoint=checkpoint,
    )
    image = torch.randn(1, 1, 28, 42, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exported = torch.jit.load(tmp_path / "model.ts")(image)
        torch.testing.assert_close(exported, deployed.eval()(image), rtol=1e-5, atol=1e-5)


def test_an_interrupted_training_needs_no_encoder_weights(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    settings = {**SMALL, "max_iterations": 4, **places_of(shared_cohort, tmp_path)}

    def interrupt(parser: ConfigParser) -> None:
        trainer = parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda engine: engine.terminate())

    run_here("training", *TRAINING, **settings, before=interrupt)
    assert torch.load(tmp_path / "resume.pt", weights_only=True)["engine"]["iteration"] == 2
    del settings["network_def#pretrained"]
    parser = run_here("training", *TRAINING, **settings, resume=True)
    assert parser.get_parsed_content("train#trainer").state.iteration == 4
    assert [group["initial_lr"] for group in parser.get_parsed_content("optimizer").param_groups] == [5e-6, 2e-4]


@pytest.mark.parametrize("overlay", ["supervised.json", "baselines/unimatch_vq.json", "baselines/ua_mt.json"])
def test_baselines_train_on_it(shared_cohort: CohortFolder, tmp_path: Path, overlay: str) -> None:
    settings = {**SMALL, "max_iterations": 1}
    parser = run_here("training", *TRAINING, overlay, **places_of(shared_cohort, tmp_path), **settings)
    assert all(math.isfinite(value) for value in loss_terms(parser).values())


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"patch_size": [32, 32]}, r"patch_size must hold multiples of 14, .* the nearest are \[28, 28\]"),
        ({"spatial_dims": 3, "patch_size": [28, 28, 4]}, "network_def: spatial_dims must be 2: DINOv2 takes images"),
        (
            {"network_def#pretrained": True, "encoder_weights": "none.pth"},
            r"network_def: encoder_weights: there is no file 'none\.pth'\. Download https://.*/dinov2_vits14_pretrain",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    shared_cohort: CohortFolder, tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    settings = {**SMALL, "dataset_dir": str(shared_cohort.root), **overrides}
    refused(tmp_path / "out", message, "training", *TRAINING, **settings)


def test_the_3d_overlay_is_refused(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    message = "network_def: spatial_dims must be 2: DINOv2 takes images, not volumes, got 3"
    where = {"dataset_dir": str(shared_cohort.root), "patch_size": [28, 28, 4]}
    refused(tmp_path / "out", message, "training", *TRAINING, "train_3d.json", **where)


@pytest.mark.data
def test_the_real_encoder_trains_with_the_adapter(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    if not DINOV2.is_file():
        pytest.skip(f"needs DINOv2's weights at {DINOV2}")
    weights = {"encoder_weights": str(DINOV2), "foundation_weights": str(DINOV2), "foundation_image_size": 42}
    where = places_of(shared_cohort, tmp_path)
    settings = {**STEPS, "network_def#num_embeddings": 64}
    before: dict[str, torch.Tensor] = {}

    def keep(parser: ConfigParser) -> None:
        before.update({k: v.clone() for k, v in parser.get_parsed_content("network").state_dict().items()})

    parser = run_here("training", *TRAINING, "pfa.json", **where, **weights, **settings, before=keep)
    assert loss_terms(parser)["alignment"] > 0
    official = torch.load(DINOV2, map_location="cpu", weights_only=True)
    name = "blocks.5.mlp.fc1.weight"
    torch.testing.assert_close(before[f"encoder.{name}"], official[name].float(), rtol=0, atol=0)
    moved = (parser.get_parsed_content("network").state_dict()[f"encoder.{name}"] - before[f"encoder.{name}"]).abs()
    # AdamW moves a weight by about its rate a step: two steps at 5e-6, the second at less
    assert 0 < moved.max() <= 2.1 * 5e-6
