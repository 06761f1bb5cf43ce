"""More than a hundred kinds of senseless settings: refused by name, warned of, or right for a reason that is said here.

None ends in a traceback, none changes anything on disk when refused, and none is trained on in silence.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from support.bundle_runs import CohortFolder
from support.senseless import Keys, check_start

pytestmark = pytest.mark.slow
NAN, INF = math.nan, math.inf

#: key to its senseless values and what the message says of it; every other key of one value: tests/bundle/test_settings
VALUES: list[tuple[str, list[Any], str]] = [
    ("learning_rate", [0, -1, NAN, INF, "fast", True, 1e6, 1e-300, [1e-3]], "--learning_rate: expected a number from"),
    ("max_iterations", [0, 2.5, "many", True, 10**12], "--max_iterations: expected a whole number"),
    ("iterations_per_epoch", [0, 0.5], "--iterations_per_epoch: expected a whole number"),
    ("unlabeled_batch_size", [0, "two"], "--unlabeled_batch_size: expected a whole number"),
    ("seed", [-1, 2**32, 1.5], "--seed: expected a whole number"),
    ("ema_decay", [1, -0.5], r"--ema_decay: expected a number in \[0, 1\)"),
    ("confidence_threshold", [1.0, 2], r"--confidence_threshold: expected a number in \[0, 1\)"),
    ("lambda_u", [-1, NAN], "--lambda_u: expected a number that is not negative"),
    ("spatial_dims", [4, "2d", 2.0], "--spatial_dims: expected 2 or 3"),
    ("threads", [0, "all"], "--threads: expected a whole number of at least 1, or auto"),
    ("device", ["gpu", "cuda:99", "", "cuda:-1"], "device (must be|is)"),
    ("device", ["mps", "meta", "xla", "vulkan", "hpu"], "device is '.*', on which PyTorch cannot compute here"),
    ("in_channels", [0, "RGB"], "--in_channels: expected a whole number"),
    ("in_channels", [3], r"expected 3 channels \(in_channels\), found 1 channel"),
    (
        "patch_size",
        [32, [32], [0, 32], [-32, 32], [32.5, 32], "32x32", [[32, 32]], {"x": 32}],
        "patch_size must hold 2",
    ),
    ("patch_size", [[1, 1], [4, 4]], r"patch_size \[., .\] is a single token"),
    ("patch_size", [[10**5, 10**5]], r"patch_size \[100000, 100000\]: a scan of .* would become one of .* of memory"),
    ("spacing", [[0, 1], [-1, 1], "fine", [NAN, 1], [1] * 4, 1.0], "spacing must hold one to three voxel sizes in mm"),
    ("spacing", [[1e-9, 1e-9], [1e-3, 1e-3]], r"spacing \[.* a scan of .* would become one of .* of memory"),
    ("spacing", [[1e9, 1e9]], r"spacing \[.*4 of 4 scans would have fewer than 4 voxels along an axis"),
    ("image_size", [1, [64.5], [0, 0], "big"], "image_size must hold one to three sizes"),
    ("image_size", [[1, 1], [2, 2]], r"image_size \[.*4 of 4 scans would have fewer than 4 voxels along an axis"),
    ("image_size", [[10**5, 10**5]], r"image_size \[.* a scan of .* would become one of .* of memory"),
    (
        "intensity_window",
        [[9, 9], [9, -9], ["a", "b"], [NAN, 1], "CT", [-INF, INF]],
        "intensity_window must hold two ri",
    ),
    (
        "intensity_window",
        [[1e9, 2e9], [-5000, -4000]],
        r"intensity_window \[.*: 7 of 7 scans have no intensity within it",
    ),
    ("intensity_statistics", [[0, 0], "mean"], "intensity_statistics must hold a mean and a deviation"),
    ("normalize_nonzero", ["maybe", 2], "--normalize_nonzero: expected true or false"),
    ("perturb_temperature", [0, "hot"], "perturbation: temperature must be a positive number"),
    ("perturb_temperature", [NAN], "--perturb_temperature: expected a finite number"),
    ("perturb_neighbors", ["many"], "--perturb_neighbors: expected a number, as in the configuration"),
    ("network_def#norm", [1], r"network_def: it cannot be built from its keys \(TypeError"),
    ("slice_axis", [3, "up", 1.5], 'slice_axis must be "auto"'),
    ("unlabeled_streams", [[], {}], "--unlabeled_streams: expected at least one entry, as in the configuration"),
    ("unlabeled_streams", ["strong"], "streams: unlabeled_streams must be a list of at least one stream"),
    ("unlabeled_streams", [[{"view": "no"}], [{"view": "strong", "weight": -1}]], "of an unlabelled stream must be"),
    ("foundation_model", ["dino", 5], r"foundation_model must be one of \['none', "),
    ("foundation_features", ["x"], "--foundation_features: expected exact or cached"),
    ("network_def#channels", [[], [0, 8, 16], "wide", 16], "network_def#channels must hold a width for each level"),
    ("network_def#strides", [[2], [2, 2, 2]], r"network_def#channels .* want 2 strides, network_def#strides are"),
    ("network_def#num_embeddings", [0, 1, -5], r"network_def: num_embeddings \(K, the number of codewords\)"),
    ("network_def#num_embeddings", ["many"], "--network_def#num_embeddings: expected a number, as in the config"),
    ("network_def#num_embeddings", [2.5, 10**12], "network_def: it cannot be built from its keys"),
    ("network_def#out_channels", [1, 5], "network_def#out_channels: expected 3, for the labels 0, 1, 2, found"),
    ("network_def#dropout", [1, 2, -1, NAN], r"--network_def#dropout: expected a number in \[0, 1\)"),
    ("network_def#embedding_dim", [0, -4, 2.5], "--network_def#embedding_dim: expected a whole number"),
    (
        "network_def#quantizer#entropy_tokens",
        [0, 2.5],
        "--network_def#quantizer#entropy_tokens: expected a whole number",
    ),
    ("network_def#quantizer", [{}], "--network_def#quantizer: expected at least one entry, as in the configuration"),
    ("network_def#spatial_dims", [3], "network_def#spatial_dims: expected 2, found 3; leave it out"),
    ("loss#lambda_u", [NAN], "--loss#lambda_u: expected a finite number"),
    ("loss#lambda_u", [-1], "loss: lambda_u must not be negative"),
    ("network_def", ["unet", {}], "--network_def: expected a component, as in the configuration"),
    ("optimizer#lr", [0, 1e9], "--optimizer#lr: expected a number from 1e-12 to 1"),
    ("optimizer#weight_decay", [-1, NAN, 1e9], "--optimizer#weight_decay: expected a number from 0 to 10"),
    ("optimizer#amsgrad", ["no"], "--optimizer#amsgrad: expected true or false"),
    ("optimizer#_target_", ["torch.optim.Nothing", "os.system"], "optimizer: it cannot be built from its keys"),
    ("lr_scheduler#power", ["x", -1, NAN, 1e6], "--lr_scheduler#power: expected a number from 0 to 100"),
    ("lr_scheduler#total_iters", [0, -5], "--lr_scheduler#total_iters: expected a whole number of at least 1"),
    ("codebook_maintenance#interval", [0, 2.5], "--codebook_maintenance#interval: expected a whole number"),
    ("codebook_maintenance#max_share", [0], "codebook_maintenance: max_share must lie in"),
    ("train#mixer#share", [2], "train#mixer: share of a copied box must lie in"),
    ("train#trainer#max_grad_norm", [0, -1, NAN], "--train#trainer#max_grad_norm: expected a positive number, or none"),
    ("train#trainer#epoch_length", [0, -3], "--train#trainer#epoch_length: expected a whole number of at least 1"),
    ("train#trainer#amp", ["x"], "--train#trainer#amp: expected true or false"),
    ("train#dataset#cache_rate", [-1, 5], r"--train#dataset#cache_rate: expected a number in \[0, 1\]"),
    ("train#dataloader#batch_size", [0, 2.5], "--train#dataloader#batch_size: expected a whole number"),
    ("train#dataloader#sampler#num_samples", [0], "--train#dataloader#sampler#num_samples: expected a whole number"),
    ("validate#inferer#overlap", [1, -1], r"--validate#inferer#overlap: expected a number in \[0, 1\)"),
    ("validate#inferer#batch_size", [0], "--validate#inferer#batch_size: expected a whole number"),
    ("validate#key_metric", [{}], "--validate#key_metric: expected at least one entry"),
    ("validate#evaluator#val_data_loader", [[]], "--validate#evaluator#val_data_loader: expected at least one entry"),
    ("volume_transforms", [[], {}], "--volume_transforms: expected at least one entry, as in the configuration"),
    ("strong_transforms", [[]], "--strong_transforms: expected at least one entry"),
    ("train_handlers", [{}], "--train_handlers: expected at least one entry"),
    ("validation_handlers", [{}], "--validation_handlers: expected at least one entry"),
    ("train#preprocessing#transforms", [[]], 'train#preprocessing: expected transforms that make "image" of channels'),
    (
        "train#unlabeled_preprocessing#transforms",
        [[]],
        'train#unlabeled_preprocessing: .* make "image" of channels and 2',
    ),
    ("validate#preprocessing#transforms", [[]], 'validate#preprocessing: .* "image" of .* 3 spatial axes, found a str'),
    ("all_strong_transforms", [[]], 'train#unlabeled_preprocessing: .* "strong" of .* axes, found none; give the tr'),
    ("view_transforms", [[]], r"train#preprocessing: .* 2 spatial axes, found shape \[1, 32, 32, 1\]"),
    ("labeled_crop", [[]], r"train#preprocessing: case_0 cannot be prepared \(ValueError: Can only squeeze"),
    ("foundation_image_size", [0, -1, "big"], "--foundation_image_size: expected a whole number"),
    ("pseudo_labeler", ["$1/0", "$undefined"], r"pseudo_labeler: it cannot be built from its keys \((Zero|Name)"),
    ("pseudo_labeler", ["@nowhere"], "pseudo_labeler: .*'nowhere'"),
    ("checkpoint_minutes", [0, "soon"], "--checkpoint_minutes: expected a positive number, or none"),
    ("checkpoint", ["model.pt"], "checkpoint 'model.pt' is read by evaluating and inference only"),
    ("resume", [True], "resume: there is no checkpoint"),
    ("resume", ["yes", 1], "--resume: expected true or false"),
    ("plan_file", ["nowhere.json"], r"plan_file nowhere\.json cannot be read"),
    ("dataset_dir", ["$HOME", "@x"], "--dataset_dir: expected a path, found '.*', which MONAI would evaluate"),
    ("dataset_dir", ["nowhere", "~nobody/x"], "dataset_dir .*: expected a folder, found nothing"),
    ("dataset_dir", ["", 7, [1]], "--dataset_dir: expected a path, found"),
    ("dataset_dir", ["x" * 300], "File name too long"),
    ("datalist", ["nowhere.json", "/"], "datalist .*: no such file"),
    ("output_dir", ["/proc/x", "/dev/null/x"], "output_dir '.*' is not writable"),
    ("output_dir", ["a#b", "$x", 5], "--output_dir: expected a path"),
    ("output_dir", ["y" * 300], "File name too long"),
    ("max_iteration", [5], "Unknown key '--max_iteration'. Did you mean max_iterations"),
    ("network_def#channles", [[4]], "Unknown key '--network_def#channles'. Did you mean network_def#channels"),
]

#: legal and without a word, each for a reason
RIGHT: list[tuple[Keys, str]] = [
    ({"iterations_per_epoch": 10**7}, "an epoch ends with the training"),
    ({"val_interval": 1000}, "the end of the training is validated in any case"),
    ({"ema_decay": 0}, "the teacher is the student: an ablation"),
    ({"lambda_dice": 0}, "cross-entropy alone: an ablation"),
    ({"perturb_prob": 0}, "no perturbation: an ablation"),
    ({"perturbation": "none"}, "none of the fused codes: an ablation"),
    ({"device": "cpu:7"}, "PyTorch's other name of the CPU"),
    ({"patch_size": [33, 35]}, "any size is padded to the network's stride"),
    ({"network_def#strides": [1, 1]}, "a network without downsampling"),
    ({"lr_scheduler#power": 0}, "the learning rate stays"),
    ({"network_def#norm": ""}, "a network without normalisation"),
    ({"perturb_neighbors": 1000}, "more than there are codes: a moved token may be any of them"),
    ({"train#mixer": None}, "no mixing: an ablation"),
    ({"codebook_maintenance#patience": 0}, "codes are revived at once"),
    ({"resume_changed": True}, "there is nothing to resume, so nothing has changed"),
]


VALUE_CASES = [(key, value, expected) for key, values, expected in VALUES for value in values]


@pytest.mark.parametrize("key, value, expected", VALUE_CASES, ids=[f"{k} {str(v)[:20]!a}" for k, v, _ in VALUE_CASES])
def test_values(
    shared_cohort: CohortFolder, tmp_path: Path, caplog: Any, key: str, value: Any, expected: str, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    check_start(shared_cohort, tmp_path / "out", {key: value}, expected, caplog)


@pytest.mark.parametrize("keys, reason", RIGHT, ids=[next(iter(keys)) for keys, _ in RIGHT])
def test_legal_and_right(shared_cohort: CohortFolder, tmp_path: Path, caplog: Any, keys: Keys, reason: str) -> None:
    check_start(shared_cohort, tmp_path / "out", keys, f"right: {reason}", caplog)


def test_weights_that_nothing_uses(shared_cohort: CohortFolder, tmp_path: Path, caplog: Any) -> None:
    expected = "warned: foundation_weights is given but not used"
    check_start(shared_cohort, tmp_path / "out", {"foundation_weights": "none.pth"}, expected, caplog)


def test_more_than_a_hundred_kinds() -> None:
    assert len(VALUE_CASES) + len(RIGHT) >= 100
