"""Whether the scans are still images once they are prepared: not constant, not a few voxels, not larger than memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vqseg_bundle import data
from vqseg_bundle.bundle.machine.memory import host_memory_gb
from vqseg_bundle.planning import Fingerprint, Plan

__all__ = ["check_prepared_scans"]

_LEAST_SIDE = 4  # voxels


def check_prepared_scans(cases: Sequence[data.CaseFacts], fingerprint: Fingerprint, plan: Plan) -> list[str]:
    """Refuse settings that are legal by themselves but leave nothing of these scans, or more than fits into memory.

    Args:
        cases: the data check's facts.
        fingerprint: of the scans to learn from.
        plan: with the sizes, the voxel size and the window that are given or planned.

    Returns:
        Warnings, one sentence each.

    Raises:
        ValueError: most scans have fewer than four voxels along an axis of the network, the largest scan does not fit
            into memory, or all scans are constant within the window.
    """
    given = {name: getattr(plan, name) for name in ("image_size", "spacing", "patch_size") if getattr(plan, name)}
    keys = " and ".join(f"{name} {value}" for name, value in given.items())
    spacing, image_size = plan.spacing and tuple(plan.spacing), plan.image_size and tuple(plan.image_size)
    shapes, sides = fingerprint.resampled(spacing or None, image_size or None), slice(plan.spatial_dims)
    shrunk = shapes[:, sides].min(axis=1) < np.minimum(np.array(fingerprint.shapes)[:, sides].min(axis=1), _LEAST_SIDE)
    if 2 * shrunk.sum() > len(shrunk):
        first = _by(shapes[int(shrunk.argmax())])
        raise ValueError(
            f"{keys}: {shrunk.sum()} of {len(shrunk)} scans would have fewer than {_LEAST_SIDE} voxels along an axis, "
            f"such as {first}. Give larger sizes, or smaller voxels in mm."
        )
    padded = np.maximum(shapes, [*plan.patch_size, *[1] * (3 - len(plan.patch_size))])
    size_gb, memory = 4 * fingerprint.channels * padded.prod(axis=1) / 1e9, host_memory_gb()
    if size_gb.max() > memory:
        largest = int(size_gb.argmax())
        found = f"{_by(fingerprint.shapes[largest])} voxels of {_by(fingerprint.spacings[largest])} mm"
        raise ValueError(
            f"{keys}: a scan of {found} would become one of {_by(padded[largest])}, {size_gb.max():.3g} GB as float32, "
            f"of {memory:.3g} GB of memory. Give smaller sizes or larger voxels in mm, or correct that scan's header."
        )
    return _constant(cases, plan.intensity_window)


def _constant(cases: Sequence[data.CaseFacts], window: Sequence[float] | None) -> list[str]:
    known = {case.image: case.image_voxels for case in cases if case.image_voxels}
    if not window or not known:
        return []
    lost = [file for file, facts in known.items() if facts.high <= window[0] or facts.low >= window[1]]
    text = f"intensity_window {list(window)}: {len(lost)} of {len(known)} scans have no intensity within it"
    if len(lost) == len(known):
        low, high = min(facts.low for facts in known.values()), max(facts.high for facts in known.values())
        raise ValueError(f"{text}; theirs are from {low:g} to {high:g}. Give a window among them, or leave it out.")
    return [f"{text}: {data.file_list(lost)}; they are constant to the network."] if lost else []


def _by(sizes: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
