"""The metrics of an evaluation: one record per metric, and all metrics of every structure of a case.

If only one of prediction and label has a structure, no distance is defined, and it gets the worst score that the image
allows (Dice and Jaccard 0, the image's diagonal as distance). If neither has it, it gets no number.

The surface of a structure is its voxels with a face towards a voxel outside it or towards the image's border. Along an
axis of a single voxel nothing is measured: a slice stored as a volume has the same surface as one stored as an image.
A face towards an ignored voxel is none, since nobody knows what lies there, nor is one towards the border if the voxel
on the other side is ignored, as of a labelled first slice. Of a structure without any other face, such as a scribble,
all voxels are surface.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.metrics import compute_dice, compute_iou
from monai.metrics.utils import get_mask_edges, get_surface_distance
from monai.transforms.utils import generate_spatial_bounding_box
from monai.utils import convert_to_tensor

__all__ = [
    "METRICS",
    "STATUSES",
    "ClassMetrics",
    "Metric",
    "StructurePair",
    "compute_case_metrics",
    "compute_class_dice",
    "without_ignored",
]

STATUSES = ("ok", "missed", "hallucinated", "absent")


class ClassMetrics(NamedTuple):
    """Agreement of prediction and label on one class of one case.

    Attributes:
        class_index: the class, from 1.
        values: metric name to value; NaN if the class is absent.
        status: ok (in both), missed (only in the label), hallucinated (only in the prediction) or absent (in neither).
    """

    class_index: int
    values: Mapping[str, float]
    status: str


@dataclass(frozen=True)
class StructurePair:
    """A structure in prediction and label, at least one of them non-empty.

    Args:
        pred: the structure's voxels, bool ``(1, *S)``, cropped to the region of both and a voxel around it.
        label: the same for the label.
        spacing: size of a voxel along each axis of ``S``, mm.
        diagonal: diagonal of the whole image, mm.
        ignored: the voxels that nobody has labelled, bool ``(1, *S)``, in neither; None if there are none.
    """

    pred: torch.Tensor
    label: torch.Tensor
    spacing: list[float]
    diagonal: float
    ignored: torch.Tensor | None = None

    @property
    def is_matched(self) -> bool:
        """Whether both are non-empty."""
        return bool(self.pred.any()) and bool(self.label.any())

    @property
    def for_monai(self) -> dict[str, Any]:
        """The first arguments of MONAI's metrics, ``(1, 1, *S)``; the structure is not treated as background."""
        return {"y_pred": self.pred[None].float(), "y": self.label[None].float(), "include_background": True}

    @cached_property
    def surface_distances(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Distance of each surface voxel, mm, from the prediction's to the label's and back; both are non-empty."""
        pred, label = self._surfaces()
        there, back = (get_surface_distance(*pair, spacing=self.spacing) for pair in ((pred, label), (label, pred)))
        return torch.as_tensor(there), torch.as_tensor(back)

    def _surfaces(self) -> tuple[torch.Tensor, torch.Tensor]:
        pred, label = self.pred[0], self.label[0]
        edges: Any  # of tensors, MONAI makes tensors
        if self.ignored is None:
            edges = get_mask_edges(pred, label)
            return edges[0], edges[1]
        edges = get_mask_edges(pred | self.ignored[0], label | self.ignored[0], crop=False)
        known = edges[0] & pred, edges[1] & label
        return known[0] if known[0].any() else pred, known[1] if known[1].any() else label


@dataclass(frozen=True)
class Metric:
    """A metric; tables, ``summary.json``, the report and comparisons all use this record.

    Args:
        name: name of key and column.
        title: its name in headings.
        unit: unit of its values; empty without one.
        decimals: number of decimals shown.
        higher_is_better: whether a higher value is better.
        limits: limits of its axis in plots; None as upper limit means that of the data.
        measure: computes it for a structure.
        in_cases: whether the report also shows it for each case.
    """

    name: str
    title: str
    unit: str
    decimals: int
    higher_is_better: bool
    limits: tuple[float, float | None]
    measure: Callable[[StructurePair], float]
    in_cases: bool = False

    @property
    def heading(self) -> str:
        """Title and unit, such as "HD95 (mm)"."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def show(self, value: float | None) -> str:
        """A value with the metric's decimals; "-" without a value."""
        return "-" if value is None or math.isnan(value) else f"{value:.{self.decimals}f}"


def _dice(pair: StructurePair) -> float:
    """2 |P n L| / (|P| + |L|)."""
    return compute_dice(**pair.for_monai).item() if pair.is_matched else 0.0


def _jaccard(pair: StructurePair) -> float:
    """|P n L| / |P u L|."""
    return compute_iou(**pair.for_monai).item() if pair.is_matched else 0.0


def _hd95(pair: StructurePair) -> float:
    """Larger of the two directed 95th percentiles of surface distance."""
    if not pair.is_matched:
        return pair.diagonal
    return max(torch.quantile(distances, 0.95).item() for distances in pair.surface_distances)


def _asd(pair: StructurePair) -> float:
    """Mean distance of both surfaces' voxels to the other surface."""
    if not pair.is_matched:
        return pair.diagonal
    return torch.cat(pair.surface_distances).mean().item()


#: by name; a new metric is a function and a line
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("dice", "Dice", "", 3, True, (0.0, 1.0), _dice, in_cases=True),
        Metric("jaccard", "Jaccard", "", 3, True, (0.0, 1.0), _jaccard),
        Metric("hd95_mm", "HD95", "mm", 2, False, (0.0, None), _hd95, in_cases=True),
        Metric("asd_mm", "ASD", "mm", 2, False, (0.0, None), _asd),
    )
}


def compute_case_metrics(
    pred: torch.Tensor, label: torch.Tensor, num_classes: int, spacing: Sequence[float]
) -> list[ClassMetrics]:
    """Compare a predicted class map with its label; returns the metrics of classes 1 to ``num_classes - 1``, in order.

    Args:
        pred: class indices, ``(1, *S)``, any dtype that represents whole numbers.
        label: class indices, ``(1, *S)``; where it is ``num_classes``, "ignore", no metric counts anything.
        num_classes: number of classes, background (0) included.
        spacing: size of a voxel along each axis of ``S``, in mm.

    Raises:
        ValueError: the shapes differ or are not ``(1, *S)``, a value is not a class index, or ``spacing`` does not
            give one positive number per axis.
    """
    if pred.shape != label.shape or pred.ndim < 3 or pred.shape[0] != 1:
        raise ValueError(f"pred and label must both be (1, *S), got {tuple(pred.shape)} and {tuple(label.shape)}.")
    if len(spacing) != pred.ndim - 1 or not all(0 < size < math.inf for size in spacing):
        raise ValueError(f"spacing must be {pred.ndim - 1} positive numbers, got {list(spacing)}.")
    ignored = convert_to_tensor(label == num_classes, device="cpu", track_meta=False)
    pred, label = without_ignored(pred, label, num_classes)
    maps = _class_map(pred, num_classes, "pred"), _class_map(label, num_classes, "label"), ignored
    measured = [axis for axis, count in enumerate(pred.shape[1:]) if count > 1] or [0]
    planes = [volume.reshape(1, *(volume.shape[1 + axis] for axis in measured)) for volume in maps]
    sizes = [float(spacing[axis]) for axis in measured]
    unknown = planes[2] if bool(ignored.any()) else None
    return [_compare(planes[0] == index, planes[1] == index, unknown, index, sizes) for index in range(1, num_classes)]


def compute_class_dice(pred: torch.Tensor, label: torch.Tensor, num_classes: int) -> list[float]:
    """Dice of each foreground class of one case, ``(1, *S)`` both: NaN if neither has it, 0 if only one has.

    Where the label is ``num_classes``, "ignore", both maps count as background.
    """
    pred, label = without_ignored(pred, label, num_classes)
    scores = compute_dice(
        pred[None], label[None], include_background=False, ignore_empty=False, num_classes=num_classes
    )
    # MONAI gives 1 for a class in neither
    return [
        score if score < 1.0 or (label == index).any() else math.nan
        for index, score in enumerate(scores[0].tolist(), start=1)
    ]


def without_ignored(pred: torch.Tensor, label: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both class maps, with background where the label is ``num_classes``, "ignore"."""
    ignored = label == num_classes
    if not bool(ignored.any()):
        return pred, label
    return pred.masked_fill(ignored.to(pred.device), 0), label.masked_fill(ignored, 0)


def _class_map(volume: torch.Tensor, num_classes: int, name: str) -> torch.Tensor:
    values = convert_to_tensor(volume.detach(), device="cpu", track_meta=False)
    indices = values.long()
    wrong = (indices != values) | (indices < 0) | (indices >= num_classes)
    if wrong.any():
        raise ValueError(f"{name} must hold class indices 0 to {num_classes - 1}, got {values[wrong][0].item()}.")
    return indices


def _with_border(mask: torch.Tensor, **how: Any) -> torch.Tensor:
    """A mask ``(1, *S)`` and a layer of nothing, or of what ``mode`` says, around its spatial axes."""
    return torch.from_numpy(np.pad(mask.numpy(), [(0, 0), *[(1, 1)] * (mask.ndim - 1)], **how))


def _compare(
    pred: torch.Tensor, label: torch.Tensor, ignored: torch.Tensor | None, index: int, spacing: list[float]
) -> ClassMetrics:
    predicted, labeled = bool(pred.any()), bool(label.any())
    if not predicted and not labeled:
        return ClassMetrics(index, dict.fromkeys(METRICS, math.nan), "absent")
    diagonal = math.hypot(*(count * size for count, size in zip(pred.shape[1:], spacing, strict=True)))
    if ignored is not None:
        pred, label, ignored = _with_border(pred), _with_border(label), _with_border(ignored, mode="reflect")
    start, end = generate_spatial_bounding_box(pred | label, margin=1, allow_smaller=True)
    box = (slice(None), *(slice(a, b) for a, b in zip(start, end, strict=True)))
    pair = StructurePair(pred[box], label[box], spacing, diagonal, None if ignored is None else ignored[box])
    status = "ok" if predicted and labeled else "missed" if labeled else "hallucinated"
    return ClassMetrics(index, {name: metric.measure(pair) for name, metric in METRICS.items()}, status)
