"""The overlays of the training configuration, each run for a few steps."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from skimage.measure import label
from support.bundle_runs import CONFIGS, TINY, TWO_STEPS, CohortFolder, loss_terms, places_of, run_here
from support.foundation_parts import DINOV2

from vqseg_bundle import engines

TINY_3D = {
    **TWO_STEPS,
    "patch_size": [32, 32, 8],
    "network_def#channels": [4, 8, 8, 16],
    "network_def#strides": [[2, 2, 1], [2, 2, 2], [2, 2, 2]],
    "network_def#reconstruction_channels": [4, 4],
}


def test_two_steps_log_every_term(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    found = loss_terms(run_here("training", "train.json", **places_of(shared_cohort, tmp_path), **TWO_STEPS))
    assert all(math.isfinite(value) for value in found.values())
    assert found["unlabeled_segmentation"] > 0
    assert found["alignment"] == 0
    assert_logged(found, tmp_path / "progress.csv")


def assert_logged(found: dict[str, float], table: Path) -> None:
    """The table's one epoch has a column a term, of the size of the last step's."""
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert {name for name in row if name.startswith("loss_")} == {f"loss_{name}" for name in found}
    for name, value in found.items():
        assert float(row[f"loss_{name}"]) == pytest.approx(value, rel=0.7, abs=0.1), name


def test_the_3d_overlay_trains_evaluates_and_infers(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    where = places_of(shared_cohort, tmp_path)
    parser = run_here("training", "train.json", "train_3d.json", **where, **TINY_3D)
    assert parser.get_parsed_content("network_def").arguments["spatial_dims"] == 3
    assert type(parser.get_parsed_content("validate#inferer").inferer).__name__ == "SlidingWindowInferer"
    run_here("evaluating", "train.json", "train_3d.json", "evaluate.json", **where, device="cpu")
    folder = {"dataset_dir": str(shared_cohort.root / "images"), "output_dir": str(tmp_path / "inferred")}
    folder["checkpoint"] = str(tmp_path / "model.pt")
    parser = run_here("inference", "inference.json", **folder, device="cpu")
    assert type(parser.get_parsed_content("inferer").inferer).__name__ == "SlidingWindowInferer"
    for case in ("case_5", "turned"):
        evaluated = nib.load(tmp_path / "predictions" / f"{case}_pred.nii.gz")
        inferred = nib.load(tmp_path / "inferred" / "predictions" / f"{case}_pred.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(inferred.dataobj), np.asanyarray(evaluated.dataobj))
        assert inferred.shape == nib.load(shared_cohort.root / "images" / f"{case}.nii.gz").shape


def test_codes_of_fused_features_are_perturbed_ever_more(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    """Six steps: eps is 0 up to step 1.2 and 0.5 from step 4.8 on."""
    strengths: list[float] = []

    def watch(parser: ConfigParser) -> None:
        perturbation = parser.get_parsed_content("perturbation")
        trainer = parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: strengths.append(perturbation.perturb_prob))

    where = places_of(shared_cohort, tmp_path)
    sizes = {**TINY, "network_def#reconstruction_channels": [4], "network_def#code_level": 1, "perturb_end_share": 0.8}
    parser = run_here("training", "train.json", before=watch, **where, **sizes)
    network = parser.get_parsed_content("network_def")
    assert (network.stride, network.arguments["code_level"]) == ([2, 2], 1)
    module = parser.get_parsed_content("training_module")
    assert module.bottleneck_perturbation.perturb_prob == 0.7
    (bottleneck,) = parser.get_parsed_content("train#trainer").state.output["student"].quantized_skips
    assert tuple(bottleneck.indices.shape) == (4, 8, 8)
    assert len(parser.get_parsed_content("codebook_maintenance").quantizers) == 2
    assert parser.get_parsed_content("perturbation").neighbors == 8
    assert strengths == pytest.approx([0.0, 0.8 / 3.6 * 0.5, 1.8 / 3.6 * 0.5, 2.8 / 3.6 * 0.5, 0.5, 0.5])


def test_codes_at_the_bottleneck_are_one_overlay_away(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    strengths: list[float] = []

    def watch(parser: ConfigParser) -> None:
        perturbation, trainer = (parser.get_parsed_content(name) for name in ("perturbation", "train#trainer"))
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: strengths.append(perturbation.perturb_prob))

    where = places_of(shared_cohort, tmp_path)
    deeper = {"network_def#channels": [4, 8, 8, 16], "network_def#strides": [2, 2, 2]}
    sizes = {**TWO_STEPS, **deeper, "network_def#reconstruction_channels": [4, 4, 8]}
    parser = run_here("training", "train.json", "bottleneck_codes.json", before=watch, **where, **sizes)
    network, module = (parser.get_parsed_content(name) for name in ("network_def", "training_module"))
    assert (network.stride, network.bottleneck_stage, network.fusion) == ([8, 8], None, None)
    assert (module.bottleneck_perturbation, module.balance_codes, module.perturbation.neighbors) == (None, False, None)
    assert type(parser.get_parsed_content("train#mixer")).__name__ == "CutMix"
    assert strengths == [0.7, 0.7]


def test_pseudo_labels_in_one_piece_are_one_overlay_away(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    """Half of the pseudo-labels of a network that has learnt nothing are islands."""
    pieces: list[int] = []

    def watch(parser: ConfigParser) -> None:
        def count(engine: Engine) -> None:
            for labels in engine.state.output["pseudo_labels"].labels.numpy():
                pieces.extend(label(labels == index, connectivity=2, return_num=True)[1] for index in (1, 2))

        parser.get_parsed_content("train#trainer").add_event_handler(Events.ITERATION_COMPLETED, count)

    where = places_of(shared_cohort, tmp_path)
    run_here("training", "train.json", before=watch, **where, **TWO_STEPS)
    assert max(pieces) > 1
    pieces.clear()
    run_here("training", "train.json", "largest_component.json", before=watch, **where, **TWO_STEPS)
    assert max(pieces) == 1


@pytest.mark.parametrize(("overlay", "labeler"), [("unimatch", "StudentPseudoLabeler"), ("ua_mt", "MonteCarloTeacher")])
def test_a_baseline_s_own_pseudo_labels_come_in_one_piece_in_either_order(overlay: str, labeler: str) -> None:
    baseline, filtered = CONFIGS / "baselines" / f"{overlay}.json", CONFIGS / "largest_component.json"
    for order in ((baseline, filtered), (filtered, baseline)):
        parser = ConfigParser()
        parser.read_config([CONFIGS / "train.json", *order])
        parser.update({"network": torch.nn.Dropout(), "teacher": None, "labels": {0: "background", 1: "organ"}})
        parser["teacher"] = engines.EMATeacher(torch.nn.Dropout())
        found = parser.get_parsed_content("pseudo_labeler")
        assert type(found).__name__ == "LargestComponentLabeler"
        assert type(found.labeler).__name__ == labeler


def test_an_evaluation_takes_its_dimensions_from_the_weights(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    where = places_of(shared_cohort, tmp_path)
    run_here("training", "train.json", "train_3d.json", **where, **{**TINY_3D, "max_iterations": 1})
    parser = run_here("evaluating", "train.json", "evaluate.json", **where, device="cpu")
    assert type(parser.get_parsed_content("one_network_inferer").inferer).__name__ == "SlidingWindowInferer"


def test_copy_paste_shows_the_student_labels_in_unlabelled_images(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    certain: list[float] = []
    own: list[float] = []

    def look(parser: ConfigParser) -> None:
        def keep(engine: Engine) -> None:
            for shares, key in ((certain, "unlabeled_targets"), (own, "pseudo_labels")):
                shares.append(engine.state.output[key].confidence.eq(1).float().mean().item())

        parser.get_parsed_content("train#trainer").add_event_handler(Events.ITERATION_COMPLETED, keep)

    where = places_of(shared_cohort, tmp_path)
    run_here("training", "train.json", before=look, **where, **TWO_STEPS)
    # a box of 2/3 of each axis is a share of 0.44 of the image, and 0.56 is left around it
    assert len(certain) == 2
    assert all(0.4 < share < 0.6 for share in certain)
    assert own == [0.0, 0.0], "the teacher's own are watched, without the labels"


def test_the_moving_average_codebook_trains(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    first: list[torch.Tensor] = []

    def keep(parser: ConfigParser) -> None:
        first.append(parser.get_parsed_content("network").quantizer.codebook().clone())

    where = places_of(shared_cohort, tmp_path)
    parser = run_here("training", "train.json", "ema_codebook.yaml", before=keep, **where, **TWO_STEPS)
    codebook = parser.get_parsed_content("network").quantizer.codebook
    assert not codebook.follows_gradient
    assert not list(codebook.parameters())
    used = codebook.counts > 1e-3
    # the codes that tokens chose went to their means, the others stayed
    torch.testing.assert_close(codebook()[used], codebook.sums[used] / codebook.counts[used].unsqueeze(1))
    moved = (codebook() - first[0]).abs().amax(dim=1) > 0
    assert moved.any()
    assert not moved[~used].any()
    record = json.loads((tmp_path / "model.json").read_text())
    assert record["network"]["quantizer"]["codebook_type"] == "ema"


@pytest.mark.data
@pytest.mark.parametrize("overlays, settings", [(["pfa.json"], TWO_STEPS), (["train_3d.json", "pfa.json"], TINY_3D)])
def test_the_foundation_model_aligns_features(
    shared_cohort: CohortFolder, tmp_path: Path, overlays: list[str], settings: dict[str, Any]
) -> None:
    if not DINOV2.is_file():
        pytest.skip(f"needs DINOv2's weights at {DINOV2}")
    where = {**places_of(shared_cohort, tmp_path), "foundation_weights": str(DINOV2), "foundation_image_size": 42}
    parser = run_here("training", "train.json", *overlays, **where, **settings)
    alignment = loss_terms(parser)["alignment"]
    assert math.isfinite(alignment)
    assert alignment > 0
    assert not [key for key in torch.load(tmp_path / "resume.pt", weights_only=True)["student"] if "backbone" in key]
    assert "adapter (PFA) is off" not in (tmp_path / "training.log").read_text()


def test_without_unlabelled_cases_it_says_so_and_trains(cohort: CohortFolder, tmp_path: Path) -> None:
    cohort.datalist["unlabeled"] = []
    cohort.save()
    found = loss_terms(run_here("training", "train.json", **places_of(cohort, tmp_path / "out"), **TWO_STEPS))
    assert found["unlabeled_segmentation"] == 0
    log = (tmp_path / "out" / "training.log").read_text()
    assert "no unlabelled cases: training is supervised, on the labelled cases only" in log


def test_without_a_validation_list_the_last_teacher_is_saved(cohort: CohortFolder, tmp_path: Path) -> None:
    cohort.datalist["validation"] = []
    cohort.save()
    parser = run_here("training", "train.json", **places_of(cohort, tmp_path / "out"), **TWO_STEPS)
    log = (tmp_path / "out" / "training.log").read_text()
    assert "no validation cases: the last teacher is saved, none is selected" in log
    assert "val_mean_dice" not in log
    teacher = parser.get_parsed_content("teacher").module
    saved = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    torch.testing.assert_close(saved, teacher.deployed_state_dict(), rtol=0, atol=0)


def test_overridden_max_epochs_rules(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    settings = {**TINY, "max_iterations": 100, "iterations_per_epoch": 3, "train#trainer#max_epochs": 1}
    parser = run_here("training", "train.json", **places_of(shared_cohort, tmp_path), **settings)
    trainer = parser.get_parsed_content("train#trainer")
    assert (trainer.state.epoch, trainer.state.iteration, trainer.total_iterations) == (1, 3, 3)
    assert parser.get_parsed_content("lr_scheduler").total_iters == 3
    assert parser.get_parsed_content("lr_scheduler").get_last_lr() == [0.0]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 4000),
        ({"train#trainer#max_iterations": 200}, 200),
        ({"train#trainer#epoch_length": 50}, 4000),
        ({"train#trainer#epoch_length": 50, "train#trainer#max_epochs": 3}, 150),
    ],
)
def test_schedules_and_draws_are_as_long_as_what_the_trainer_is_given(changes: dict[str, int], steps: int) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(CONFIGS / "train.json"))
    parser.update({"max_iterations": 4000, "labeled_batch_size": 2, "train#dataloader#batch_size": 4, **changes})
    assert parser.get_parsed_content("total_iterations") == steps
    assert parser.get_parsed_content("train#dataloader#sampler#num_samples") == 4 * steps


def test_a_resized_label_stays_on_its_structure() -> None:
    """Rounding down instead of to the nearest moves it by 0.4 voxels on average at a fifth of the size."""
    transforms = ConfigParser.load_config_file(CONFIGS / "train.json")["volume_transforms"]
    (resize,) = [transform for transform in transforms if transform["_target_"] == "Resized"]
    parser = ConfigParser({**resize, "_disabled_": False, "spatial_size": [16, 16, -1]})
    resized_transform = parser.get_parsed_content()
    errors = []
    for start in range(20, 25):  # all places of an edge within a voxel of the resized grid, five times as wide
        label = torch.zeros(1, 80, 80, 2)
        label[:, start : start + 20, 10:30] = 1
        resized = resized_transform({"image": label, "label": label})["label"]
        rows = torch.nonzero(resized[0, :, :, 0])[:, 0].double()
        errors.append(rows.mean().item() - ((start + 10) / 5 - 0.5))
    assert sum(errors) / 5 == pytest.approx(0, abs=1e-6)
