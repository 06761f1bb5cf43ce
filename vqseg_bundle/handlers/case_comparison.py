"""Overlap and surface distance of every structure of one case, in millimetres.

A structure that only one of prediction and label has, no distance is defined for: it scores as badly as the image
allows (Dice and Jaccard 0, distances the image's diagonal). One that neither has gets no number.

Surface is a structure's voxels with a face towards a voxel outside it or towards the image's border. Along an axis of a
single voxel nothing is measured: a slice stored as a volume has its surface in its plane, as if stored as an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance, compute_iou
from monai.transforms.utils import generate_spatial_bounding_box
from monai.utils import convert_to_tensor

__all__ = ["METRICS", "STATUSES", "ClassMetrics", "compute_case_metrics", "compute_class_dice"]

METRICS = ("dice", "jaccard", "hd95_mm", "asd_mm")
STATUSES = ("ok", "missed", "hallucinated", "absent")


class ClassMetrics(NamedTuple):
    """Agreement of prediction and label on one class of one case; the metrics of an absent class are NaN.

    Attributes:
        class_index: the class, from 1.
        dice: 2 |P n L| / (|P| + |L|).
        jaccard: |P n L| / |P u L|.
        hd95_mm: larger of the two directed 95th percentiles of surface distance.
        asd_mm: mean of the distances of both surfaces' voxels to the other surface.
        status: ok (both have it), missed (the label alone), hallucinated (the prediction alone) or absent (neither).
    """

    class_index: int
    dice: float
    jaccard: float
    hd95_mm: float
    asd_mm: float
    status: str


def compute_case_metrics(
    pred: torch.Tensor, label: torch.Tensor, num_classes: int, spacing: Sequence[float]
) -> list[ClassMetrics]:
    """Compare a predicted class map with its label.

    Args:
        pred: class indices, ``(1, *S)``, any dtype that holds whole numbers.
        label: class indices, ``(1, *S)``.
        num_classes: number of classes, background (0) included.
        spacing: size of a voxel along each axis of ``S``, in mm.

    Returns:
        The metrics of classes 1 to ``num_classes - 1``, in order.

    Raises:
        ValueError: the shapes differ or are not ``(1, *S)``, a value is not a class index, or ``spacing`` does not
            give one positive number for each axis.
    """
    if pred.shape != label.shape or pred.ndim < 3 or pred.shape[0] != 1:
        raise ValueError(f"pred and label must both be (1, *S), got {tuple(pred.shape)} and {tuple(label.shape)}.")
    if len(spacing) != pred.ndim - 1 or not all(0 < size < math.inf for size in spacing):
        raise ValueError(f"spacing must be {pred.ndim - 1} positive numbers, got {list(spacing)}.")
    maps = _class_map(pred, num_classes, "pred"), _class_map(label, num_classes, "label")
    dice = compute_class_dice(*maps, num_classes)
    measured = [axis for axis, count in enumerate(pred.shape[1:]) if count > 1] or [0]
    planes = [volume.reshape(1, *(volume.shape[1 + axis] for axis in measured)) for volume in maps]
    sizes = [float(spacing[axis]) for axis in measured]
    classes = enumerate(dice, start=1)
    return [_compare(planes[0] == index, planes[1] == index, index, sizes, value) for index, value in classes]


def compute_class_dice(pred: torch.Tensor, label: torch.Tensor, num_classes: int) -> list[float]:
    """Dice of classes 1 to ``num_classes - 1`` of one case: NaN for a class that neither has, 0 where one alone has it.

    Args:
        pred: class indices, ``(1, *S)``.
        label: class indices, ``(1, *S)``, on the same device.
        num_classes: number of classes, background (0) included.
    """
    scores = compute_dice(
        pred[None], label[None], include_background=False, ignore_empty=False, num_classes=num_classes
    )
    # MONAI gives 1 where neither has it
    return [
        score if score < 1.0 or (label == index).any() else math.nan
        for index, score in enumerate(scores[0].tolist(), start=1)
    ]


def _class_map(volume: torch.Tensor, num_classes: int, name: str) -> torch.Tensor:
    values = convert_to_tensor(volume.detach(), device="cpu", track_meta=False)
    indices = values.long()
    wrong = (indices != values) | (indices < 0) | (indices >= num_classes)
    if wrong.any():
        raise ValueError(f"{name} must hold class indices 0 to {num_classes - 1}, got {values[wrong][0].item()}.")
    return indices


def _compare(pred: torch.Tensor, label: torch.Tensor, index: int, spacing: list[float], dice: float) -> ClassMetrics:
    predicted, labeled = bool(pred.any()), bool(label.any())
    if not predicted and not labeled:
        return ClassMetrics(index, math.nan, math.nan, math.nan, math.nan, "absent")
    if not predicted or not labeled:
        diagonal = math.hypot(*(count * size for count, size in zip(pred.shape[1:], spacing, strict=True)))
        return ClassMetrics(index, 0.0, 0.0, diagonal, diagonal, "missed" if labeled else "hallucinated")
    start, end = generate_spatial_bounding_box(pred | label)
    box = (slice(None), *(slice(a, b) for a, b in zip(start, end, strict=True)))
    # (1, 1, *box) with the class as the only channel: include_background keeps MONAI from dropping it
    pair: dict[str, Any] = {
        "y_pred": pred[box][None].float(),
        "y": label[box][None].float(),
        "include_background": True,
    }
    return ClassMetrics(
        index,
        dice,
        compute_iou(**pair).item(),
        compute_hausdorff_distance(**pair, percentile=95, spacing=spacing).item(),
        compute_average_surface_distance(**pair, symmetric=True, spacing=spacing).item(),
        "ok",
    )
