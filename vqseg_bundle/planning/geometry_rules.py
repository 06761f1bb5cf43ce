"""Rules of geometry: 2D or 3D, the voxel size to resample to, and the size to which pictures are resized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np

from vqseg_bundle.planning.decisions import Ruled
from vqseg_bundle.planning.fingerprint import Fingerprint, Machine
from vqseg_bundle.planning.training_rules import most_view_voxels

__all__ = ["choose_image_size", "choose_spacing", "choose_spatial_dims", "view_budget"]

#: voxels of a view on a CPU by dimensions, the largest that trains in minutes there
_CPU_VOXELS = {2: 128 * 128, 3: 96 * 96 * 16}
#: the same on a GPU before its memory is considered: nnU-Net's largest planned patches have about these
_CUDA_VOXELS = {2: 512 * 512, 3: 128**3}
_ISOTROPIC = 2.0  # times between the median voxel's longest and shortest side
_SHORTEST_IN_3D = 32  # voxels: less is seen by a handful of slices
_AUGMENTED = 1.15  # the factor by which augmentation scales views in any case
_ANISOTROPIC_PLANE = 1.5
_ANISOTROPIC = 3.0
_LEAST_SEEN = 0.25  # of a median image by a view
_MULTIPLE = 16  # pixels to a side of a resized picture: four halvings


def view_budget(machine: Machine, dims: int, width: int) -> int:
    """Largest number of voxels of a view: what the device trains in good time, and what its memory holds four of.

    Args:
        machine: what the training runs on.
        dims: dimensions of the network.
        width: channels of the network's first level.
    """
    most = (_CPU_VOXELS if machine.device == "cpu" else _CUDA_VOXELS)[dims]
    return min(most, most_view_voxels(width, machine))


def choose_spatial_dims(fingerprint: Fingerprint, machine: Machine, demo: bool) -> Ruled:
    """2 or 3: volumes only on a GPU, with near-isotropic voxels and enough slices.

    nnU-Net trains both and keeps the better in cross-validation, for which few labels leave no cases.
    """
    if demo or machine.device == "cpu":
        return Ruled(2, "slices on a CPU; spatial_dims 3 asks for volumes")
    spacing, shape = fingerprint.median_spacing, np.median(fingerprint.resampled(None, None), axis=0)
    ratio = float(spacing.max() / spacing.min())
    figures = f"voxels' sides {ratio:.3g} : 1, shortest axis {shape.min():g} voxels"
    volumes = fingerprint.has_geometry and ratio <= _ISOTROPIC and shape.min() >= _SHORTEST_IN_3D
    return Ruled(3 if volumes else 2, f"{figures}; 3D up to {_ISOTROPIC:g} : 1 and from {_SHORTEST_IN_3D} voxels")


def choose_spacing(
    fingerprint: Fingerprint, dims: int, image_size_given: bool, budget: int, patch_given: bool
) -> Ruled:
    """The voxel size to resample to, in mm along each of the network's axes; None leaves the voxels as they are.

    The median of each axis; in 3D the coarsest axis takes its 10th percentile if it is more than three times coarser
    than the others and has less than a third of their voxels (nnU-Net's planner). Resampled only where the voxel size
    varies by more than augmentation scales views in any case, or is anisotropic in the plane. If a view shows less than
    a quarter of a median image, voxels are made larger until it does: the condition on which nnU-Net adds its
    low-resolution stage, the only stage here.
    """
    if not fingerprint.has_geometry:
        return Ruled(None, "most images say no voxel size")
    if image_size_given:
        return Ruled(None, "image_size is given")
    spacings = np.array(fingerprint.spacings, dtype=float)[:, :dims]
    target, reason = np.median(spacings, axis=0), ""
    ends = np.percentile(spacings, [5, 95], axis=0) / target
    spread = float(np.maximum(ends[1], 1 / ends[0]).max())
    plane = float(target[:2].max() / target[:2].min())
    if spread > _AUGMENTED:
        reason = f"5 to 95 % of voxels' sides up to {spread:.3g} x from the median"
    if dims == 3 and _coarsest_is_sparse(fingerprint, target):
        target[target.argmax()] = max(np.percentile(spacings[:, target.argmax()], 10), np.sort(target)[1])
        reason += "; coarsest axis: 10th percentile"
    if dims == 2 and plane > _ANISOTROPIC_PLANE:
        target[:2] = math.sqrt(target[0] * target[1])
        reason = f"{plane:.3g} : 1 in the plane"
    coarser = 1.0 if patch_given else _coarser(fingerprint, tuple(target), dims, budget)
    if coarser > 1:
        target = target * coarser
        reason += f"{'; ' if reason else ''}{coarser:.3g} x coarser, so that a view shows a quarter of an image"
    if not reason:
        return Ruled(None, f"5 to 95 % of voxels' sides within {spread:.3g} x of the median")
    return Ruled(
        [_rounded(float(side)) for side in target], f"median {_by(target / coarser)} mm ({reason.strip('; ')})"
    )


def _rounded(side: float) -> float:
    """To a thousandth of a millimetre, or to three digits of what is smaller."""
    return round(side, max(3, 2 - math.floor(math.log10(side))))


def choose_image_size(
    fingerprint: Fingerprint, dims: int, spacing_given: bool, budget: int, patch_size: list[int] | None
) -> Ruled:
    """The size in voxels to which slices are resized; None leaves them.

    Images without a voxel size, such as pictures, can be compared only by what they show as a whole: they are resized
    to their median aspect, with as many pixels as a view may have (or to a given patch), if they differ in size or are
    larger than that.
    """
    if spacing_given:
        return Ruled(None, "spacing is given")
    if fingerprint.has_geometry:
        return Ruled(None, "voxel sizes are known")
    shapes = fingerprint.resampled(None, None)[:, :2]
    median = np.median(shapes, axis=0)
    ends = np.percentile(shapes, [5, 95], axis=0) / median
    spread = float(np.maximum(ends[1], 1 / ends[0]).max())
    if dims == 3 or (spread <= _AUGMENTED and median.prod() <= budget):
        return Ruled(None, f"no voxel sizes, 5 to 95 % of images within {spread:.3g} x of {_by(median)}")
    if patch_size is not None:
        return Ruled([int(side) for side in patch_size[:2]], "no voxel sizes: a slice fills patch_size")
    size = _nearest_size(median * min(1.0, math.sqrt(budget / median.prod())), budget)
    return Ruled(size, f"no voxel sizes, images near {_by(median)} (5 to 95 % up to {spread:.3g} x off)")


def _nearest_size(ideal: np.ndarray, budget: int) -> list[int]:
    """The multiples within the budget that are nearest in aspect and pixels.

    Twice as many pixels weigh as much as a side stretched by the square root of two: a stretched picture misleads, a
    smaller one only shows less.
    """

    def distance(size: Sequence[int]) -> float:
        logs = np.log(np.array(size) / ideal)
        return abs(logs[0] - logs[1]) + 0.5 * abs(logs.sum())

    sides = [range(_MULTIPLE, int(side) + 2 * _MULTIPLE, _MULTIPLE) for side in ideal]
    sizes = [list(size) for size in product(*sides) if math.prod(size) <= budget]
    return min(sizes or [[_MULTIPLE, _MULTIPLE]], key=distance)


def _coarsest_is_sparse(fingerprint: Fingerprint, target: np.ndarray) -> bool:
    shape = np.median(fingerprint.resampled(tuple(target), None), axis=0)
    coarsest = int(target.argmax())
    others = [axis for axis in range(3) if axis != coarsest]
    return bool(
        target[coarsest] > _ANISOTROPIC * target[others].max() and shape[coarsest] * _ANISOTROPIC < shape[others].min()
    )


def _coarser(fingerprint: Fingerprint, target: tuple[float, ...], dims: int, budget: int) -> float:
    """The factor by which voxels must grow for a view to show a quarter of a median image."""
    voxels = float(np.median(fingerprint.resampled(target, None)[:, :dims], axis=0).prod())
    return max(1.0, (_LEAST_SEEN * voxels / budget) ** (1 / dims))


def _by(values: np.ndarray) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
