"""The geometry of a training's volumes, and how a volume to segment clearly differs from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..formats.volume_io import VolumeHeader
from .orientation import orient_header, readable_headers
from .slice_axis import SLICE_AXES, single_slice_axis

__all__ = ["has_geometry", "training_geometry", "unlike_training"]

_FACTOR = 2.0  # factor beyond the training's range of spacing
_CLEARLY = 1.5  # times coarser along another axis than across the slices
_DIRECTIONS = ("left to right", "back to front", "feet to head")


def training_geometry(images: Iterable[str]) -> dict[str, Any]:
    """The geometry with which :func:`unlike_training` compares a volume, for JSON.

    Args:
        images: paths of the volumes; unreadable ones are ignored.

    Returns:
        "volumes", their number; "without_geometry", the number with the identity as affine; and "spacing_mm", the
        smallest and largest voxel size of the others from left to right, back to front and feet to head. None for a
        direction that none of them defines: a file's spacing across a single slice means nothing.
    """
    headers = list(readable_headers(images).values())
    spacings = [_spacing(header) for header in headers if has_geometry(header)]
    ranges = []
    for axis in range(3):
        known = [spacing[axis] for spacing in spacings if np.isfinite(spacing[axis])]
        # six digits: a record for readers, compared by a factor of two
        ranges.append([float(f"{end:.6g}") for end in (min(known), max(known))] if known else None)
    return {
        "volumes": len(headers),
        "without_geometry": len(headers) - len(spacings),
        "spacing_mm": ranges,
    }


def unlike_training(header: VolumeHeader, trained: Mapping[str, Any], slice_axis: int | str) -> list[str]:
    """Clear differences from the training's volumes (see :func:`training_geometry`), as clauses.

    Voxels more than twice the largest or less than half the smallest size, a geometry although the training had none or
    the reverse, slices in another plane; a ``slice_axis`` without a name is not compared.
    """
    if not trained["volumes"]:
        return []
    found = []
    if slice_axis in SLICE_AXES:
        found += _other_plane(orient_header(header, "RAS"), trained, SLICE_AXES.index(str(slice_axis)))
    if not has_geometry(header):
        none = trained["without_geometry"] == 0
        return [*found, "no geometry (its affine is the identity), in training all had one"] if none else found
    if trained["without_geometry"] == trained["volumes"]:
        return [*found, "a geometry, in training none had one (identity affines, as of pictures)"]
    return found + _other_spacing(_spacing(header), trained)


def has_geometry(header: VolumeHeader) -> bool:
    """Whether a volume has a geometry; the identity stands for none (pictures, NPY arrays), also ITK's, in LPS."""
    return not np.allclose(np.abs(header.affine), np.eye(4))


def _spacing(header: VolumeHeader) -> np.ndarray:
    """Voxel size along the axes of RAS, mm; NaN across a single slice."""
    oriented = orient_header(header, "RAS")
    spacing = np.linalg.norm(oriented.affine[:3, :3], axis=0)
    single = single_slice_axis(oriented.spatial_shape)
    if single is not None:
        spacing[single] = np.nan
    return spacing


def _other_spacing(spacing: np.ndarray, trained: Mapping[str, Any]) -> list[str]:
    found = []
    for size, known, direction in zip(spacing, trained["spacing_mm"], _DIRECTIONS, strict=True):
        if known is None or np.isnan(size):
            continue
        if not known[0] / _FACTOR <= size <= known[1] * _FACTOR:
            found.append(f"voxels of {size:.3g} mm from {direction}, in training {known[0]:.3g} to {known[1]:.3g} mm")
    return found


def _other_plane(oriented: VolumeHeader, trained: Mapping[str, Any], axis: int) -> list[str]:
    single = single_slice_axis(oriented.spatial_shape)
    if single is not None:
        return [f"a single {SLICE_AXES[single]} slice, trained on {SLICE_AXES[axis]} ones"] if single != axis else []
    spacing, known = np.linalg.norm(oriented.affine[:3, :3], axis=0), trained["spacing_mm"]
    coarsest = int(spacing.argmax())
    if coarsest == axis or spacing[coarsest] <= _CLEARLY * spacing[axis]:
        return []
    if known[coarsest] and known[axis] and known[coarsest][1] > _CLEARLY * known[axis][0]:
        return []  # as in training
    return [f"{SLICE_AXES[coarsest]} slices by its voxels, segmented in {SLICE_AXES[axis]} ones as trained"]
