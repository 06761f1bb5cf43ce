"""Whole training steps and whole-volume inference of the bundle as configured, with and without quantisation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from torch import Tensor

from scripts.benchmark.contenders import Case, Comparison, Contender, Plan
from scripts.benchmark.reference_code import prepare_published_step
from vqseg_bundle.engines import STRONG, SemiSupervisedTrainer
from vqseg_bundle.losses import VQSegTargets

__all__ = [
    "CLASSES",
    "INFERENCE",
    "STEP_2D",
    "STEP_3D",
    "WITHOUT_VQ",
    "bundle_parser",
    "image_setting",
    "prepare_step",
    "trainer_step",
]

#: Classes of the segmentation, background included.
CLASSES = 4
#: Overrides for a mean teacher with the same U-Net: no quantiser, image decoder or code-use entropy.
WITHOUT_VQ: dict[str, Any] = {
    "network_def#num_embeddings": None,
    "lambda_reconstruction": 0.0,
    "lambda_entropy": 0.0,
}

_CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_TRAINING = ("train.json",)
_TRAINING_3D = ("train.json", "train_3d.json")
#: what a training would plan from its scans; in 3D :data:`_SIZES_3D`
_SIZES: dict[str, Any] = {
    "spatial_dims": 2,
    "patch_size": [128, 128],
    "labeled_batch_size": 4,
    "unlabeled_batch_size": 4,
    "network_def#channels": [16, 32, 64, 128, 256],
    "network_def#strides": [2, 2, 2, 2],
    "network_def#code_level": 2,
    "network_def#reconstruction_channels": [8, 16],
}
_SIZES_3D: dict[str, Any] = {
    "spatial_dims": 3,
    "patch_size": [96, 96, 16],
    "labeled_batch_size": 2,
    "unlabeled_batch_size": 2,
    "network_def#channels": [16, 32, 64, 128],
    "network_def#strides": [[2, 2, 1], [2, 2, 2], [2, 2, 2]],
    "network_def#code_level": 2,
    "network_def#reconstruction_channels": [8, 16],
}
_AT_THE_BOTTLENECK: dict[str, Any] = {
    "network_def#code_level": None,
    "network_def#reconstruction_channels": [8, 16, 32, 64],
    "training_module#balance_codes": False,
}
_MEAN_TEACHER = "U-Net mean teacher without VQ"
_ENDLESS = 10**6


def bundle_parser(configs: tuple[str, ...], overrides: Mapping[str, Any]) -> ConfigParser:
    """The bundle's configuration, overridden as on the command line; parts are built on access.

    Args:
        configs: file names in ``configs/``.
        overrides: value by id.
    """
    parser = ConfigParser()
    parser.read_config([str(_CONFIGS / name) for name in configs])
    sizes = _SIZES_3D if "train_3d.json" in configs else _SIZES
    labels = [f"class {index}" for index in range(CLASSES)]
    parser.update({**sizes, "labels": labels, "foundation_model": "none", **overrides})
    return parser


def prepare_step(configs: tuple[str, ...], overrides: Mapping[str, Any], device: str) -> Callable[[], None]:
    """A trainer on two batches of random images; each call of the returned function is one iteration.

    Args:
        configs: file names in ``configs/``.
        overrides: value by id.
        device: "cpu" or "cuda".
    """
    torch.manual_seed(0)
    parser = bundle_parser(configs, {"device": device, **overrides})
    part = parser.get_parsed_content
    sizes = [(part(f"{kind}_batch_size"), 1, *part("patch_size")) for kind in ("labeled", "unlabeled")]
    images = [torch.randn(size, generator=torch.Generator().manual_seed(3)) for size in sizes]
    labeled, unlabeled = ({"image": image, STRONG: image + 0.1} for image in images)
    labeled["label"] = torch.randint(CLASSES, sizes[0], generator=torch.Generator().manual_seed(4))
    return trainer_step(parser, device, [labeled], [unlabeled])


def trainer_step(
    parser: ConfigParser, device: str, labeled: Iterable[Mapping[str, Any]], unlabeled: Iterable[Mapping[str, Any]]
) -> Callable[[], None]:
    """The trainer of a configuration, without handlers; each call of the returned function is one iteration.

    Args:
        parser: the configuration.
        device: "cpu" or "cuda".
        labeled: batches with "image", "label" and the strong view.
        unlabeled: batches with "image" and the strong view.
    """
    part = parser.get_parsed_content
    trainer = SemiSupervisedTrainer(
        device=torch.device(device),
        max_epochs=1,
        epoch_length=_ENDLESS,
        train_data_loader=labeled,
        unlabeled_data_loader=unlabeled,
        network=part("train#trainer#network"),
        student=part("network"),
        teacher=part("teacher"),
        loss_function=part("loss"),
        targets=VQSegTargets,
        optimizer=part("optimizer"),
        mixer=part("train#mixer"),
        foundation_model=part("foundation"),
        max_grad_norm=part("train#trainer#max_grad_norm"),
        generator=torch.Generator(device).manual_seed(0),
        amp=part("mixed_precision"),
    )
    # an interrupted run continues where it was
    trainer.add_event_handler(Events.ITERATION_COMPLETED, trainer.interrupt)
    trainer.logger.setLevel(logging.CRITICAL)  # the engine reports its own garbage collection as an exception
    return trainer.run


def image_setting(parser: ConfigParser) -> str:
    """The images of a step, such as "4 + 4 of 128 x 128"."""
    batches = f"{parser['labeled_batch_size']} + {parser['unlabeled_batch_size']}"
    return f"{batches} of {_show(parser['patch_size'])}"


def _inference(overrides: dict[str, Any], slices: int, device: str) -> Callable[[], Tensor]:
    torch.manual_seed(0)
    parser = bundle_parser(_TRAINING, {"device": device, **overrides})
    network = parser.get_parsed_content("network").eval()
    inferer = parser.get_parsed_content("validate#inferer")
    volume = torch.randn(1, 1, *parser.get_parsed_content("patch_size"), slices, device=device)
    return torch.inference_mode()(lambda: inferer(volume, network))


def _show(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes))


def _setting(configs: tuple[str, ...], overrides: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a step, read from the configuration."""
    parser = bundle_parser(configs, overrides)
    tokens = list(parser["patch_size"])
    for stride in parser["network_def#strides"][: parser["network_def#code_level"]]:
        factors = [stride] * len(tokens) if isinstance(stride, int) else stride
        tokens = [size // factor for size, factor in zip(tokens, factors, strict=True)]
    return {
        "images": image_setting(parser),
        "channels": " ".join(map(str, parser["network_def#channels"])),
        "tokens": _show(tokens),
        "K": parser["network_def#num_embeddings"],
        "D": parser["network_def#embedding_dim"],
    }


def _sizes(codes: int, width: int, patch: list[int]) -> dict[str, Any]:
    return {"network_def#num_embeddings": codes, "network_def#embedding_dim": width, "patch_size": patch}


def _compare_2d(plan: Plan, overrides: dict[str, Any], published_size: int) -> Comparison:
    changes: dict[str, dict[str, Any]] = {
        _MEAN_TEACHER: WITHOUT_VQ,
        "ours": {},
        "ours, codes at the bottleneck": _AT_THE_BOTTLENECK,
        "ours, image decoder off": {"lambda_reconstruction": 0.0},
        "ours, QPM off": {"perturb_prob": 0.0, "bottleneck_perturb_prob": 0.0},
        "ours, code-use entropy off": {"lambda_entropy": 0.0},
    }
    contenders = [
        Contender(name, partial(prepare_step, _TRAINING, {**overrides, **each}, plan.device))
        for name, each in changes.items()
    ]
    if plan.reference_code:
        whole = partial(prepare_published_step, plan.reference_code, CLASSES, published_size, plan.device)
        contenders.append(Contender(f"published network, {_show([published_size] * 2)}", whole))
    return Comparison(_setting(_TRAINING, overrides), tuple(contenders), _MEAN_TEACHER)


def _build_2d(plan: Plan) -> list[Comparison]:
    if plan.quick:
        tiny = {**_sizes(256, 8, [32, 32]), "network_def#channels": [4, 4, 8, 8, 16]}
        return [_compare_2d(plan, tiny, 28)]
    return [_compare_2d(plan, _sizes(codes, 64, [128, 128]), 126) for codes in (1024, 16384)]


def _build_3d(plan: Plan) -> list[Comparison]:
    codes, patch = (256, [16, 16, 8]) if plan.quick else (16384, [96, 96, 16])
    overrides: dict[str, Any] = {"network_def#num_embeddings": codes, "patch_size": patch}
    changes: dict[str, dict[str, Any]] = {
        _MEAN_TEACHER: WITHOUT_VQ,
        "ours": {},
        "ours, activation checkpointing": {"activation_checkpointing": True},
    }
    contenders = tuple(
        Contender(name, partial(prepare_step, _TRAINING_3D, {**overrides, **each}, plan.device))
        for name, each in changes.items()
    )
    return [Comparison(_setting(_TRAINING_3D, overrides), contenders, _MEAN_TEACHER)]


def _compare_inference(plan: Plan, codes: int, width: int, patch: list[int], slices: int) -> Comparison:
    overrides = {**_sizes(codes, width, patch), "lambda_reconstruction": 0.0}
    contenders = tuple(
        Contender(name, partial(_inference, {**overrides, **changes}, slices, plan.device))
        for name, changes in (("U-Net without VQ", WITHOUT_VQ), ("ours", {}))
    )
    return Comparison({"volume": _show([*patch, slices]), "K": codes, "D": width}, contenders, "U-Net without VQ")


def _build_inference(plan: Plan) -> list[Comparison]:
    if plan.quick:
        return [_compare_inference(plan, 256, 8, [32, 32], 3)]
    return [_compare_inference(plan, *sizes, [128, 128], 24) for sizes in ((1024, 64), (16384, 64), (16384, 256))]


_NOTE = (
    "One iteration of the bundle's trainer as configured, with the K and D that a row says: teacher, mixing, student "
    "forward and backward, clipping, optimiser, teacher update; no data loading, no adapter. The baseline is the same "
    "trainer on the same U-Net without quantiser and image decoder."
)

STEP_2D = Case(
    "Training step, 2D",
    f"{_NOTE} What one part costs is the difference to the row without it. The published network "
    "(random weights, as many images, two strong views) runs unmixed.",
    _build_2d,
)
STEP_3D = Case("Training step, 3D", f"{_NOTE} Sizes as for `configs/train_3d.json` up to version 0.8.", _build_3d)
INFERENCE = Case(
    "Whole-volume inference",
    "The deployed 2D network through MONAI's `SliceInferer` as configured (`validate#inferer`), from the volume to "
    "its logits. The baseline is the same U-Net without quantiser.",
    _build_inference,
)
