"""Rules of the training: intensities, views a step, and its length."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vqseg_bundle.planning.decisions import Ruled
from vqseg_bundle.planning.fingerprint import Fingerprint, Machine

__all__ = [
    "choose_batch_size",
    "choose_intensity_statistics",
    "choose_intensity_window",
    "choose_max_iterations",
    "choose_normalize_nonzero",
    "most_view_voxels",
    "step_memory_gb",
]

#: maps of the first level's size and width that a step keeps for each view, labelled or not: 26 to 34 measured on nets
#: of 40 x 56 to 256 x 256 and 64 x 64 x 64 voxels, and what the weights and the codebook take
_MAPS_A_VIEW, _FIXED_GB = 36, 0.1
_BYTES, _BYTES_HALF = 4, 2.5
_USUAL_BATCH = {("cpu", 2): 4, ("cpu", 3): 2, ("cuda", 2): 12, ("cuda", 3): 2}
_LEAST_BATCH = 2
_LARGEST_SHARE = 0.05  # of the voxels of all scans in a batch
_LEAST_FILLED = 0.75
_DEMO_STEPS = 1000
_FEWEST_STEPS, _MOST_STEPS = 4000, 20000
_TIMES_SEEN = 100


def step_memory_gb(voxels: int, width: int, views: int, machine: Machine) -> float:
    """Memory of a training step in GB (1e9 bytes), beside that of the process and the scans.

    Args:
        voxels: voxels of a view.
        width: channels of the network's first level.
        views: labelled and unlabelled views of the step.
        machine: what the training runs on, with or without mixed precision.
    """
    size = _BYTES_HALF if machine.half else _BYTES
    return _FIXED_GB + 1e-9 * size * _MAPS_A_VIEW * voxels * width * views


def most_view_voxels(width: int, machine: Machine) -> int:
    """The largest view of which two labelled and two unlabelled ones fit the memory, in voxels."""
    free = machine.memory_gb - _FIXED_GB
    return max(1, int(free / (step_memory_gb(1, width, 2 * _LEAST_BATCH, machine) - _FIXED_GB)))


def choose_batch_size(voxels: float, machine: Machine, patch_size: Sequence[int], width: int) -> Ruled:
    """Labelled views a step, and as many unlabelled ones.

    As many as the memory holds, at most 5 % of all scans' voxels and at least 2 (nnU-Net's planner); no more than 12
    in 2D and 2 in 3D, nnU-Net's own, on a CPU 4 and 2.

    Args:
        voxels: of all scans together, after resampling.
        machine: what the training runs on.
        patch_size: of a view.
        width: channels of the network's first level.
    """
    usual = _USUAL_BATCH[machine.device, len(patch_size)]
    share = int(_LARGEST_SHARE * voxels / math.prod(patch_size))
    fitting = most_view_voxels(width, machine) * _LEAST_BATCH // math.prod(patch_size)
    value = max(_LEAST_BATCH, min(usual, share, fitting))
    memory = f"{fitting} fit {machine.memory_gb:.3g} GB"
    return Ruled(value, f"usual {usual}; 5 % of the scans' voxels are {share} views; {memory}; at least {_LEAST_BATCH}")


def choose_max_iterations(fingerprint: Fingerprint, batch_size: int, demo: bool) -> Ruled:
    """Optimiser steps: each scan is seen a hundred times, in no fewer than 4,000 and no more than 20,000 steps.

    4,000 steps of 4 views show each of the 160 scans of the hippocampus a hundred times, after which its Dice no
    longer rose (docs/results.md).
    """
    if demo:
        return Ruled(_DEMO_STEPS, "the demo")
    scans = len(fingerprint.shapes)
    steps = math.ceil(_TIMES_SEEN * scans / batch_size / 100) * 100
    value = min(max(steps, _FEWEST_STEPS), _MOST_STEPS)
    seen = f"{_TIMES_SEEN} views of each of {scans} scans, {batch_size} a step, are {steps} steps"
    return Ruled(value, f"{seen}; at least {_FEWEST_STEPS}, at most {_MOST_STEPS}")


def choose_intensity_statistics(fingerprint: Fingerprint, window_given: bool) -> Ruled:
    """Mean and deviation by which CT is standardised, those of the body over all scans; else each scan's own.

    Hounsfield units mean the same in every scan (nnU-Net, which takes those of the labelled structures).
    """
    body = fingerprint.body
    if fingerprint.modality != "CT" or body is None or body.deviation == 0:
        return Ruled(None, f"{_not_ct(fingerprint, 'no CT')}: mean and deviation of each scan")
    if window_given:
        return Ruled(None, "intensity_window is given: mean and deviation of each scan")
    return Ruled([round(body.mean, 1), round(body.deviation, 1)], "CT: mean and deviation of the body over all scans")


def choose_normalize_nonzero(fingerprint: Fingerprint) -> Ruled:
    """Whether mean and deviation are of the voxels that are not zero: if the box around these is less than 3/4 of most
    scans, as after skull stripping (nnU-Net's planner); not for CT.
    """
    share = fingerprint.nonzero_share
    if share is None or fingerprint.modality == "CT":
        return Ruled(False, "CT" if fingerprint.modality == "CT" else "no voxels were read")
    return Ruled(share < _LEAST_FILLED, f"the box around voxels that are not zero is {share:.0%} of the median scan")


def choose_intensity_window(fingerprint: Fingerprint) -> Ruled:
    """The intensities to keep: for CT the 0.5 and 99.5 percentiles of the body over all scans, else each scan's own.

    nnU-Net takes those of the labelled structures, which a handful of labels does not know well.
    """
    body = fingerprint.body
    if fingerprint.modality != "CT" or body is None:
        known = _not_ct(fingerprint, "no Hounsfield units") if body is not None else "no voxels were read"
        return Ruled(None, f"{known}: percentiles of each scan")
    return Ruled([round(body.low, 1), round(body.high, 1)], "CT: 0.5 and 99.5 percentiles of the body over all scans")


def _not_ct(fingerprint: Fingerprint, otherwise: str) -> str:
    return "several channels, each by itself" if fingerprint.channels > 1 else otherwise
