"""Rules of what is kept of the scans once they are read, oriented, resampled and normalised: in memory, or on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vqseg_bundle.planning.decisions import Ruled
from vqseg_bundle.planning.fingerprint import Fingerprint

__all__ = ["choose_cache_on_disk", "choose_cache_rate", "prepared_gb"]

_BYTES = 4  # of a voxel of image or label, float32
_BESIDE = 20_000  # bytes of a scan's affines, names and traces: measured
_OF_DISK = 0.8  # the rest is for weights and whatever else writes there


def prepared_gb(fingerprint: Fingerprint, shapes: np.ndarray, patch_size: Sequence[int]) -> float:
    """Size of all prepared scans and labels in GB (1e9 bytes), those to validate on included, at the mean size.

    Args:
        fingerprint: the cohort's.
        shapes: of the resampled scans, see :meth:`Fingerprint.resampled`.
        patch_size: to which smaller scans are padded.
    """
    padded = np.maximum(shapes, [*patch_size, *[1] * (3 - len(patch_size))])
    validation, labeled = fingerprint.validation, fingerprint.labeled
    scans = len(shapes) + validation + (labeled if fingerprint.sparse else 0)
    maps = fingerprint.channels * scans + labeled + validation
    return 1e-9 * (_BYTES * float(padded.prod(axis=1).mean()) * maps + _BESIDE * scans)


def choose_cache_rate(needed_gb: float, memory_gb: float) -> Ruled:
    """Share of the scans that is kept in memory after it is prepared once: as many as fit."""
    rate = 1.0 if needed_gb <= memory_gb else math.floor(100 * memory_gb / needed_gb) / 100
    return Ruled(rate, f"prepared scans are {needed_gb:.2g} GB, memory for them {memory_gb:.3g} GB")


def choose_cache_on_disk(needed_gb: float, rate: float, disk_gb: float) -> Ruled:
    """Whether the other scans are kept on disk, if they fit, instead of being read anew at each draw."""
    left = (1 - rate) * needed_gb
    if not left:
        return Ruled(False, "all scans are kept in memory")
    return Ruled(left <= _OF_DISK * disk_gb, f"{left:.2g} GB of scans for {disk_gb:.3g} GB of free space")
