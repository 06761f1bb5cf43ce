"""Volumes of structures: in ml where the voxels' size is known, otherwise counted, and how far two of them agree.

Agreement is that of Bland and Altman (Lancet 1986): the mean difference of two measurements, and the limits mean ± 1.96
standard deviations, within which 95 % of differences lie if they are normally distributed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor

__all__ = ["Agreement", "Measured", "compare_volumes", "measure_volumes", "show_volume", "volume_tables"]

_MM3_PER_ML = 1000.0


class Measured(NamedTuple):
    """Size of the foreground classes of a class map.

    Attributes:
        voxels: of each class.
        voxel_ml: size of a voxel in ml by the affine, None for an image of two axes, which has no volume.
        says_size: whether the file says how large its voxels are: the identity as affine says nothing, nor does ITK's.
    """

    voxels: tuple[int, ...]
    voxel_ml: float | None
    says_size: bool

    def volumes(self, in_ml: bool) -> list[float]:
        """One of each class, in ml or in voxels."""
        return [count * ((self.voxel_ml or math.nan) if in_ml else 1.0) for count in self.voxels]


class Agreement(NamedTuple):
    """Mean of the differences and the limits of agreement; NaN without enough cases."""

    mean: float
    low: float
    high: float


def measure_volumes(classes: MetaTensor, num_classes: int) -> Measured:
    """Count the voxels of each foreground class of a class map ``(1, *S)``."""
    plain = classes.as_tensor().long().flatten().cpu()
    counts = torch.bincount(plain, minlength=num_classes)[1:num_classes].tolist()
    affine = classes.affine.cpu().numpy().astype(np.float64)
    is_volume = classes.ndim == 4
    size = abs(float(np.linalg.det(affine[:3, :3]))) / _MM3_PER_ML if is_volume else None
    return Measured(tuple(counts), size, is_volume and not np.allclose(np.abs(affine), np.eye(len(affine))))


def compare_volumes(predicted: Sequence[float], labeled: Sequence[float]) -> Agreement:
    """Bland and Altman's agreement of the same cases' volumes, predicted minus labelled."""
    differences = np.subtract(predicted, labeled)
    if len(differences) == 0:
        return Agreement(math.nan, math.nan, math.nan)
    mean = float(differences.mean())
    spread = 1.96 * float(differences.std(ddof=1)) if len(differences) > 1 else math.nan
    return Agreement(mean, mean - spread, mean + spread)


def show_volume(volume: float, in_ml: bool, signed: bool = False) -> str:
    """A volume as text, to three digits; whole voxels; "-" without a value."""
    if math.isnan(volume):
        return "-"
    size = abs(volume)
    decimals = 0 if not in_ml or size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{volume:{'+' if signed else ''},.{decimals}f}"


def volume_tables(
    measured: Mapping[str, tuple[Measured, Measured]], names: Sequence[str], colors: Sequence[str]
) -> dict[str, Any]:
    """What a page shows of the volumes of all cases; a class in neither prediction nor label does not count.

    Args:
        measured: case name to the volumes of its label and of its prediction.
        names: of the foreground classes.
        colors: of the foreground classes.

    Returns:
        "in_ml"; "pairs": class name to case name to labelled and predicted volume; "rows" of the table.
    """
    volumes = [volume for pair in measured.values() for volume in pair]
    # a few files without a voxel size among others, as in the Decathlon's hippocampus, are of 1 mm
    most_say = 2 * sum(volume.says_size for volume in volumes) > len(volumes)
    in_ml = most_say and all(volume.voxel_ml is not None for volume in volumes)
    pairs: dict[str, dict[str, tuple[float, float]]] = {}
    rows = []
    for position, (name, color) in enumerate(zip(names, colors, strict=True)):
        found = {
            case: (label.volumes(in_ml)[position], pred.volumes(in_ml)[position])
            for case, (label, pred) in measured.items()
        }
        pairs[name] = {case: pair for case, pair in found.items() if any(pair)}
        labeled, predicted = [pair[0] for pair in pairs[name].values()], [pair[1] for pair in pairs[name].values()]
        agreement = compare_volumes(predicted, labeled)
        means = [
            show_volume(float(np.mean(volumes)) if volumes else math.nan, in_ml) for volumes in (labeled, predicted)
        ]
        signed = [show_volume(value, in_ml, signed=True) for value in agreement]
        rows.append({"name": name, "color": color, "n": len(labeled), "means": means, "agreement": signed})
    return {"in_ml": in_ml, "pairs": pairs, "rows": rows}
