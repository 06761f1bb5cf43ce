"""Rules about one case's geometry: channels, and whether image and label lie on one grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import file_list
from ..formats.volume_io import VolumeHeader
from ..geometry.label_grid import axis_change
from .case_facts import CaseFacts
from .findings import Finding

__all__ = ["header_findings"]

_AFFINE_TOLERANCE = 1e-3  # share of a voxel's smallest side
_USUAL_SPACING_MM = (0.01, 100.0)  # of a voxel's longest side


def header_findings(cases: Sequence[CaseFacts], in_channels: int) -> list[Finding]:
    """Find wrong channels, labels that do not lie on their image's grid, and voxels whose unit can hardly be mm.

    Args:
        cases: with headers.
        in_channels: channels that each image must have.
    """
    found = [finding for case in cases for finding in _case_findings(case, in_channels)]
    return found + _unlikely_units(cases) + _assumptions(cases)


def _assumptions(cases: Sequence[CaseFacts]) -> list[Finding]:
    """What readers had to assume of where voxels lie, of each file once."""
    headers = {case.image: case.image_header for case in cases if case.image_header}
    headers |= {case.label: case.label_header for case in cases if case.label and case.label_header}
    expected = "one affine"
    return [
        Finding("uncertain_geometry", (file,), f"{file} {note}", expected, note)
        for file, known in headers.items()
        for note in known.notes
    ]


def _unlikely_units(cases: Sequence[CaseFacts]) -> list[Finding]:
    """One finding for all: as a rule the whole cohort has been converted alike."""
    headers = {case.image: case.image_header for case in cases if case.image_header}
    low, high = _USUAL_SPACING_MM
    unlikely = {file: known.spacing for file, known in headers.items() if not low <= max(known.spacing) <= high}
    if not unlikely:
        return []
    count = "1 image has" if len(unlikely) == 1 else f"{len(unlikely)} images have"
    found = file_list([f"{file}: {' x '.join(f'{side:.4g}' for side in sides)} mm" for file, sides in unlikely.items()])
    expected = f"voxels of {low:g} to {high:g} mm"
    text = f"{count} voxels that are hardly in mm (expected {expected}): {found}"
    return [Finding("unit_not_mm", tuple(unlikely), text, expected, found)]


def _case_findings(case: CaseFacts, in_channels: int) -> list[Finding]:
    found: list[Finding] = []
    image = case.image_header.header if case.image_header else None
    label = case.label_header.header if case.label_header else None
    if image is not None and image.channels != in_channels:
        expected = f"{_channels(in_channels)} (in_channels)"
        what = f"{_channels(image.channels)} (shape {image.shape})"
        text = f"{case.image}: expected {expected}, found {what}"
        found.append(Finding("wrong_channels", (case.image,), text, expected, what))
    if label is None or case.label is None:
        return found
    if label.channels != 1:
        text = f"{case.label}: expected a label of 1 channel, found shape {label.shape}"
        remedy = "convert it to one channel of class indices"
        found.append(Finding("wrong_channels", (case.label,), text, "1 channel", f"shape {label.shape}", remedy))
    if image is not None:
        found += _pair_findings(case.image, case.label, image, label)
    return found


def _pair_findings(image_path: str, label_path: str, image: VolumeHeader, label: VolumeHeader) -> list[Finding]:
    files = (label_path, image_path)
    # programs differ in which of a file's two affines they read, and write into a label
    affines = [affine for affine in (image.affine, image.other_affine) if affine is not None]
    if any(axis_change(label.affine, label.spatial_shape, of, image.spatial_shape) is not None for of in affines):
        return []  # the same voxels, flipped or permuted at most, which loading undoes
    if image.spatial_shape != label.spatial_shape:
        text = (
            f"{label_path}: shape {label.spatial_shape} differs from its image's, {image.spatial_shape} ({image_path})"
        )
        return [Finding("shape_mismatch", files, text, str(image.spatial_shape), str(label.spatial_shape))]
    tolerance = _AFFINE_TOLERANCE * float(np.linalg.norm(image.affine[:3, :3], axis=0).min())
    difference = float(np.abs(image.affine - label.affine).max())
    flipped = _flipped_axes(image.affine, label.affine, tolerance)
    if flipped:
        what = f"the other way along {' and '.join(f'axis {axis}' for axis in flipped)}"
        text = f"{label_path}: affine runs {what} than its image's ({image_path})"
        return [Finding("label_flipped", files, text, "the image's axes", what)]
    text = f"{label_path}: affine differs from its image's by up to {difference:.4g} mm ({image_path})"
    return [Finding("affine_mismatch", files, text, "the image's affine", f"up to {difference:.4g} mm off")]


def _flipped_axes(image: np.ndarray, label: np.ndarray, tolerance: float) -> list[int]:
    """Axes whose direction is the opposite one; none unless all others agree."""
    columns = list(zip(image[:3, :3].T, label[:3, :3].T, strict=True))
    flipped = [axis for axis, (a, b) in enumerate(columns) if np.abs(a + b).max() <= tolerance]
    same = [axis for axis, (a, b) in enumerate(columns) if np.abs(a - b).max() <= tolerance]
    return flipped if len(flipped) + len(same) == 3 else []


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"
