"""What the model card of a made bundle says of its network and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vqseg_bundle.commands.deploying.bundle_documents import model_readme
from vqseg_bundle.commands.deploying.run_folder import FinishedRun

METADATA = {"description": "A network"}
TRAINING, EVALUATION = {"dice": 0.8}, {"dice": 0.7, "cases": 3}


def finished(metrics: dict[str, Any] | None = None, **network: Any) -> FinishedRun:
    record = {
        "network": {"spatial_dims": 2, "in_channels": 1, **network},
        "preprocessing": {"patch_size": [8, 8], "normalization": "percentiles"},
        "labels": {0: "background", 1: "organ"},
        "label_values": {},
        "info": {},
    }
    run = {"versions": {"torch": "2", "monai": "1"}}
    return FinishedRun(Path("run"), record, {}, run, {}, metrics or {})


@pytest.mark.parametrize(
    ("network", "codes"),
    [
        ({"num_embeddings": None}, "without quantisation"),
        ({"num_embeddings": 1024}, "its bottleneck quantised by 1,024 codewords"),
        (
            {"num_embeddings": 1024, "code_level": 2, "quantized_bottleneck": False},
            "its fused features at level 2 quantised by 1,024 codewords",
        ),
        (
            {"num_embeddings": 1024, "code_level": 2, "quantized_bottleneck": True},
            "its fused features at level 2 quantised by 1,024 codewords, and its bottleneck by as many of its own",
        ),
    ],
)
def test_it_says_what_is_quantised(network: dict[str, Any], codes: str) -> None:
    card = model_readme(finished(**network), METADATA)
    assert card.startswith(f"# Model overview\n\nA network [1]: 2D U-Net, {codes}.\n")


@pytest.mark.parametrize(
    ("figures", "note"),
    [
        (TRAINING, "Validation: the best during training, by which the weights were chosen."),
        (EVALUATION, "Validation: an evaluation of the weights, which were chosen on these cases."),
    ],
)
def test_it_says_where_the_validation_figures_come_from(figures: dict[str, Any], note: str) -> None:
    card = model_readme(finished({"validation": figures}), METADATA)
    expected = f"\n\nMeans over foreground classes of the mean over cases.\n{note}\n\n"
    assert expected in card
    assert card.count("Validation: ") == 1
