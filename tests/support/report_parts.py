"""A small evaluation and its report, for the tests of the page and of what a browser makes of it."""

from __future__ import annotations

from math import nan
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from vqseg_bundle.data import choose_slice_axis
from vqseg_bundle.handlers import CaseMetrics, DiceEstimate, EvaluationReport
from vqseg_bundle.handlers.metrics import METRICS, ClassMetrics

__all__ = ["CASES", "LABELS", "MODEL", "boxes", "case", "class_metrics", "evaluate", "volume"]

LABELS = {0: "background", 1: "a<b & $x_1$", 2: "rim"}
MODEL = {
    "checkpoint": "runs/model.pt",
    "network": {"spatial_dims": 2, "num_embeddings": 32},
    "preprocessing": {"spatial_dims": 2, "patch_size": [32, 32]},
}


def volume(data: torch.Tensor) -> MetaTensor:
    """Voxels of 1 x 2 x 3 mm."""
    return MetaTensor(data, affine=torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])))


def boxes(*classes: int, shift: int = 0) -> torch.Tensor:
    """``(1, 12, 12, 6)``: of each class a cube of 4 voxels a side, shifted along the first axis."""
    result = torch.zeros(1, 12, 12, 6)
    for index in classes:
        start = 6 * (index - 1) + 1 + shift
        result[0, start : start + 4, 2:6, 1:5] = index
    return result


def case(name: str, pred: torch.Tensor, label: torch.Tensor) -> dict[str, Any]:
    """A decollated case after postprocessing; its image shows the label."""
    return {"case": name, "image": volume(label + 0.1), "pred": volume(pred), "label": volume(label)}


#: mean Dice 0.875, 1, 0 and 1; the first class's is 0.75, 1, 0 and absent
CASES = [
    case("case 10", boxes(1, 2, shift=1) * (boxes(1, 2, shift=1) == 1) + boxes(2), boxes(1, 2)),
    case("<script>alert(1)</script>", boxes(1), boxes(1)),
    case("case 9", boxes(), boxes(1)),
    case("case 2", boxes(2), boxes(2)),
]


def class_metrics(index: int, status: str, *values: float) -> ClassMetrics:
    """Metrics of a class in the table's order, NaN where no value is given."""
    return ClassMetrics(index, {**dict.fromkeys(METRICS, nan), **dict(zip(METRICS, values, strict=False))}, status)


def evaluate(folder: Path, cases: list[dict[str, Any]], estimate: DiceEstimate | None = None) -> str:
    """Run the two handlers as an evaluator would, and return the page."""
    engine = Engine(lambda _, batch: [{key: value for key, value in item.items() if key != "case"} for item in batch])
    metrics = CaseMetrics(folder, LABELS)
    metrics.attach(engine)
    EvaluationReport(metrics, "cohort & more", "test", MODEL, choose_slice_axis, estimate=estimate).attach(engine)
    if cases:
        engine.run([[item] for item in cases], max_epochs=1)
    else:
        engine.fire_event(Events.EPOCH_COMPLETED)
    return (folder / "report.html").read_text(encoding="utf-8")
