"""What the feature adapter adds to a training step."""

from __future__ import annotations

from functools import partial
from typing import Any

from scripts.benchmark.adapter_step import MODES, prepare_adapter_step
from scripts.benchmark.bundle_step import bundle_parser
from scripts.benchmark.comparison import CaseDefinition, Comparison, Contender, Plan

__all__ = ["ADAPTER"]

_NAMES = dict(
    zip(MODES, ("ours, no adapter", "ours, features of every view", "ours, features once a slice"), strict=True)
)
_SMALL_SLICES: dict[str, Any] = {
    "patch_size": [64, 64],
    "network_def#channels": [16, 32, 64, 128],
    "network_def#strides": [2, 2, 2],
    "network_def#reconstruction_channels": [8, 16, 32],
}


def _compare(plan: Plan, overrides: dict[str, Any], seconds: tuple[float, float, float]) -> Comparison:
    parser = bundle_parser(("train.json", "pfa.json"), overrides)
    setting = {
        "images": f"{parser['labeled_batch_size']} + {parser['unlabeled_batch_size']} of "
        + " x ".join(map(str, parser["patch_size"])),
        "model's input": parser["foundation_image_size"],
        "weights": "from a file" if plan.foundation_weights else "random",
    }
    contenders = tuple(
        Contender(
            _NAMES[mode],
            partial(prepare_adapter_step, overrides, plan.device, mode, plan.foundation_weights),
            seconds=each,
        )
        for mode, each in zip(MODES, seconds, strict=True)
    )
    return Comparison(setting, contenders, _NAMES["none"])


def _build(plan: Plan) -> list[Comparison]:
    if plan.quick:
        tiny = {**_SMALL_SLICES, "patch_size": [32, 32], "network_def#channels": [4, 4, 8, 8]}
        return [_compare(plan, {**tiny, "foundation_image_size": 28}, (0.1, 0.2, 0.1))]
    return [
        _compare(plan, {"patch_size": [128, 128]}, (0.5, 0.8, 0.5)),
        _compare(plan, _SMALL_SLICES, (0.2, 0.5, 0.2)),
    ]


ADAPTER = CaseDefinition(
    "Training step with the feature adapter, 2D",
    "One iteration with its data: eight random views cut from a volume in memory and augmented as configured, then the "
    "step as above at the default K 1,024, D 64. The adapter aligns with DINOv2 ViT-S/14; its features are computed on "
    "every view, or sampled from those that were stored once a slice. Computing these is not in it.",
    _build,
)
