"""Whole-volume inference with and without quantisation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scripts.benchmark.bundle_step import WITHOUT_VQ, bundle_parser
from scripts.benchmark.comparison import CaseDefinition, Comparison, Contender, Plan

__all__ = ["INFERENCE"]

_BASELINE = "U-Net without VQ"


def _inference(overrides: dict[str, Any], slices: int, device: str) -> Callable[[], Tensor]:
    torch.manual_seed(0)
    parser = bundle_parser(("train.json",), {"device": device, **overrides})
    network = parser.get_parsed_content("network").eval()
    inferer = parser.get_parsed_content("validate#inferer")
    volume = torch.randn(1, 1, *parser.get_parsed_content("patch_size"), slices, device=device)

    @torch.inference_mode()
    def work() -> Tensor:
        return inferer(volume, network)

    return work


def _comparison(plan: Plan, codes: int, width: int, patch: list[int], slices: int) -> Comparison:
    overrides = {
        "network_def#num_embeddings": codes,
        "network_def#embedding_dim": width,
        "lambda_reconstruction": 0.0,
        "patch_size": patch,
    }
    seconds = 0.05 if plan.quick else 0.8
    contenders = tuple(
        Contender(name, partial(_inference, {**overrides, **changes}, slices, plan.device), seconds)
        for name, changes in ((_BASELINE, WITHOUT_VQ), ("ours", {}))
    )
    setting = {"volume": " x ".join(map(str, [*patch, slices])), "K": codes, "D": width}
    return Comparison(setting, contenders, _BASELINE)


def _build(plan: Plan) -> list[Comparison]:
    if plan.quick:
        return [_comparison(plan, 256, 8, [32, 32], 3)]
    return [_comparison(plan, *sizes, [128, 128], 24) for sizes in ((1024, 64), (16384, 64), (16384, 256))]


INFERENCE = CaseDefinition(
    "Whole-volume inference",
    "The deployed 2D network through MONAI's `SliceInferer` as configured (`validate#inferer`), from the volume to "
    "its logits. The baseline is the same U-Net without quantiser.",
    _build,
)
