"""Rules of the network: depth and strides, patch, widths of the levels, and the memory of a training step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vqseg_bundle.planning.decisions import PlanError, Ruled

__all__ = [
    "FUSED_LEVEL",
    "NetworkLimits",
    "choose_channels",
    "choose_code_level",
    "choose_patch_size",
    "choose_reconstruction_channels",
    "choose_strides",
    "first_width",
    "total_stride",
]

Strides = Sequence[int | Sequence[int]]

_LARGEST_LEFT = 8  # an axis of more tokens is halved; nnU-Net halves from 8 on, which leaves the codes 4
_LEAST_ALONE = 12  # what an axis needs to be halved without any other, as in nnU-Net
_COARSEST_CODES = 16  # pixels between codes at the bottleneck: the coarsest grid that was measured here
FUSED_LEVEL = 2  # codes four pixels apart, the only fused ones that were measured here
_WIDTHS = {"cpu": 16, "cuda": 32}
_WIDEST = {("cpu", 2): 256, ("cuda", 2): 512, ("cpu", 3): 160, ("cuda", 3): 320}


class NetworkLimits(NamedTuple):
    """What patch and strides must keep to.

    Attributes:
        spacing: relative size of the voxels along the network's axes.
        levels: largest number of halvings, that of given ``channels``; None for no limit.
        bottleneck_codes: whether the deepest map is the only one quantised.
    """

    spacing: tuple[float, ...]
    levels: int | None
    bottleneck_codes: bool


def choose_strides(patch_size: Sequence[int], limits: NetworkLimits) -> Ruled:
    """The stride between each two levels, one number per axis where they differ.

    An axis is halved while it has more than 8 tokens and its spacing is less than twice the finest of those axes; a
    lone axis needs 12 (nnU-Net's planner, which halves from 8 on); the smallest patches are halved once. Codes at the
    bottleneck lie no more than 16 pixels apart; codes above it do not depend on the depth.
    """
    sizes, spacing = [float(size) for size in patch_size], list(limits.spacing)
    strides: list[list[int]] = []
    while limits.levels is None or len(strides) < limits.levels:
        passed = total_stride(strides, len(sizes))
        long = [
            axis
            for axis, size in enumerate(sizes)
            if size > _LARGEST_LEFT and not (limits.bottleneck_codes and passed[axis] >= _COARSEST_CODES)
        ]
        finest = min((spacing[axis] for axis in long), default=0.0)
        axes = [axis for axis in long if spacing[axis] < 2 * finest]
        if not axes or (len(axes) == 1 and len(sizes) > 1 and sizes[axes[0]] < _LEAST_ALONE):
            break
        strides.append([2 if axis in axes else 1 for axis in range(len(sizes))])
        sizes = [math.ceil(size / 2) if axis in axes else size for axis, size in enumerate(sizes)]
        spacing = [side * 2 if axis in axes else side for axis, side in enumerate(spacing)]
    if not strides and limits.levels is None:  # a network has two levels at least
        strides = [[2 if size > 1 else 1 for size in sizes]]
        sizes = [math.ceil(size / 2) for size in sizes]
    simple = [step[0] if len(set(step)) == 1 else step for step in strides]
    return Ruled(simple, f"{_by(patch_size)} voxels to {_by(sizes)} tokens at the deepest level")


def choose_patch_size(
    median: Sequence[float], limits: NetworkLimits, budget: int, strides: Strides | None = None
) -> Ruled:
    """What the network sees at once, in voxels: the median image, a multiple of the strides, within the budget.

    While it is over the budget, the axis with the largest share of the median image is shortened (nnU-Net's planner).

    Args:
        median: median shape of the images after resampling, along the network's axes.
        limits: see :class:`NetworkLimits`.
        budget: largest number of voxels.
        strides: given ones; None follows :func:`choose_strides`.
    """
    patch = [math.ceil(size) for size in median]
    while True:
        steps = total_stride(choose_strides(patch, limits).value if strides is None else strides, len(patch))
        patch = [math.ceil(size / step) * step for size, step in zip(patch, steps, strict=True)]
        if math.prod(patch) <= budget:
            break
        shares = [p / m if p > s else 0.0 for p, m, s in zip(patch, median, steps, strict=True)]
        axis = int(np.argmax(shares))
        if shares[axis] == 0:
            break
        patch[axis] -= steps[axis]
    whole = all(size >= side for size, side in zip(patch, median, strict=True))
    seen = "the whole" if whole else f"{math.prod(patch) / math.prod(median):.0%} of the"
    return Ruled(patch, f"{seen} median image of {_by(median)}, at most {budget} voxels")


def first_width(device: str) -> int:
    """Channels of the first level: nnU-Net's 32, on a CPU half."""
    return _WIDTHS[device]


def choose_channels(device: str, dims: int, levels: int) -> Ruled:
    """Widths of the levels: ``min(32 * 2**level, 512)`` in 2D, 320 in 3D (nnU-Net), half of that on a CPU."""
    first, widest = first_width(device), _WIDEST[device, dims]
    factor = "half of nnU-Net's widths, on a CPU" if device == "cpu" else "nnU-Net's widths"
    return Ruled([min(first * 2**level, widest) for level in range(levels + 1)], factor)


def choose_code_level(strides: Strides, reconstruction_channels: Sequence[int] | None = None) -> Ruled:
    """Level of the codes: the second halving's, with features fused from all deeper ones, or else the deepest.

    Given widths of the image decoder, one per level above the codes, say where these are; as many as there are not
    levels are for the network to refuse, which may be another one.
    """
    widths = len(reconstruction_channels or ())
    level = widths if 0 < widths <= len(strides) else min(FUSED_LEVEL, len(strides))
    why = f"level {level} of {len(strides)}, " + ("fused" if level < len(strides) else "the deepest")
    return Ruled(level, why + (", of reconstruction_channels" if reconstruction_channels else ""))


def choose_reconstruction_channels(channels: Sequence[int], strides: Strides, code_level: int | None) -> Ruled:
    """Widths of the image decoder: half of the encoder's at each level above the codes.

    PlanError: the codes lie below the deepest level.
    """
    level = len(strides) if code_level is None else code_level
    if level > len(strides):
        raise PlanError(
            f"network_def#code_level {code_level} lies below the deepest level of a network with "
            f"{len(strides)} strides ({list(strides)}): "
            "lower network_def#code_level, or give a larger patch_size or more network_def#strides."
        )
    return Ruled([max(1, width // 2) for width in channels[:level]], f"half of the encoder's, {level} levels")


def total_stride(strides: Strides, dims: int) -> list[int]:
    """Voxels between two tokens of the deepest level, along each axis; PlanError: a stride is not for these axes."""
    total = [1] * dims
    for stride in strides:
        axes = [stride] * dims if isinstance(stride, int) else list(stride)
        if len(axes) != dims:
            raise PlanError(f"network_def#strides: expected one number or {dims} for each level, found {stride}.")
        total = [step * factor for step, factor in zip(total, axes, strict=True)]
    return total


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
