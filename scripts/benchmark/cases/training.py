"""Whole training steps, with and without quantisation."""

from __future__ import annotations

from functools import partial
from typing import Any

from scripts.benchmark.bundle_step import CLASSES, WITHOUT_VQ, bundle_parser, prepare_step
from scripts.benchmark.comparison import CaseDefinition, Comparison, Contender, Plan
from scripts.benchmark.published_step import prepare_published_step

__all__ = ["STEP_2D", "STEP_3D"]

_BASELINE = "U-Net mean teacher without VQ"
_CONFIGS_2D = ("train.json",)
_CONFIGS_3D = ("train.json", "train_3d.json")
_WITHOUT_ONE_PART: dict[str, dict[str, Any]] = {
    "ours, image decoder off": {"lambda_reconstruction": 0.0},
    "ours, QPM off": {"perturb_prob": 0.0},
    "ours, code-use entropy off": {"lambda_entropy": 0.0},
}


def _setting(configs: tuple[str, ...], overrides: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a step, read from the configuration."""
    parser = bundle_parser(configs, overrides)
    patch: list[int] = parser["patch_size"]
    tokens = list(patch)
    for stride in parser["network_def#strides"]:
        factors = [stride] * len(patch) if isinstance(stride, int) else stride
        tokens = [size // factor for size, factor in zip(tokens, factors, strict=True)]
    batches = f"{parser['labeled_batch_size']} + {parser['unlabeled_batch_size']}"
    return {
        "images": f"{batches} of {' x '.join(map(str, patch))}",
        "channels": " ".join(map(str, parser["network_def#channels"])),
        "tokens": " x ".join(map(str, tokens)),
        "K": parser["network_def#num_embeddings"],
        "D": parser["network_def#embedding_dim"],
    }


def _contender(
    name: str, configs: tuple[str, ...], overrides: dict[str, Any], plan: Plan, seconds: float, reference: bool = False
) -> Contender:
    prepare = partial(prepare_step, configs, overrides, plan.device, plan.reference_code if reference else None)
    return Contender(name, prepare, seconds)


def _compare_2d(plan: Plan, codes: int, width: int) -> Comparison:
    overrides: dict[str, Any] = {
        "network_def#num_embeddings": codes,
        "network_def#embedding_dim": width,
        "patch_size": [128, 128],
    }
    pace = 1.0
    if plan.quick:
        overrides.update({"patch_size": [32, 32], "network_def#channels": [4, 4, 8, 8, 16]})
        pace = 0.1

    def step(name: str, changes: dict[str, Any], seconds: float, reference: bool = False) -> Contender:
        return _contender(name, _CONFIGS_2D, {**overrides, **changes}, plan, pace * seconds, reference)

    contenders = [step(_BASELINE, WITHOUT_VQ, 0.4), step("ours", {}, 0.8)]
    contenders += [step(name, changes, 0.7) for name, changes in _WITHOUT_ONE_PART.items()]
    if plan.reference_code:
        size = 28 if plan.quick else 126
        whole = partial(prepare_published_step, plan.reference_code, CLASSES, size, plan.device)
        contenders.append(step("the same, published quantiser, QPM, entropy term", {}, 1.6, reference=True))
        contenders.append(Contender(f"published network, {size} x {size}", whole, 4.0))
    return Comparison(_setting(_CONFIGS_2D, overrides), tuple(contenders), _BASELINE)


def _build_2d(plan: Plan) -> list[Comparison]:
    if plan.quick:
        return [_compare_2d(plan, 256, 8)]
    return [_compare_2d(plan, 16384, width) for width in (64, 256)]


def _build_3d(plan: Plan) -> list[Comparison]:
    overrides: dict[str, Any] = {"network_def#num_embeddings": 16384, "patch_size": [96, 96, 16]}
    seconds = 5.0
    if plan.quick:
        overrides = {"network_def#num_embeddings": 256, "patch_size": [16, 16, 8]}
        seconds = 0.2
    contenders = tuple(
        _contender(name, _CONFIGS_3D, {**overrides, **changes}, plan, seconds)
        for name, changes in (
            (_BASELINE, WITHOUT_VQ),
            ("ours", {}),
            ("ours, activation checkpointing", {"activation_checkpointing": True}),
        )
    )
    return [Comparison(_setting(_CONFIGS_3D, overrides), contenders, _BASELINE)]


_NOTE = (
    "One iteration of the bundle's trainer as configured, with the K and D that a row says: teacher, CutMix, student "
    "forward and backward, clipping, optimiser, teacher update; no data loading, no adapter. The baseline is the same "
    "trainer on the same U-Net without quantiser and image decoder."
)

STEP_2D = CaseDefinition(
    "Training step, 2D",
    f"{_NOTE} What one part costs is the difference to the row without it. The published parts stand in the same "
    "U-Net and trainer; the published network (random weights, as many images, two strong views) runs without CutMix.",
    _build_2d,
)
STEP_3D = CaseDefinition("Training step, 3D", f"{_NOTE} Sizes of `configs/train_3d.json`.", _build_3d)
