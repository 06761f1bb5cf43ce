"""Rules about a case's files: channels, grid and voxels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..errors import file_list
from ..formats.file_format import VolumeHeader, corner_distance, same_grid_limit
from ..geometry.orientation import axis_change, grid_distance
from .facts import CaseFacts, ImageFacts, LabelFacts
from .findings import Finding

__all__ = ["header_findings", "voxel_findings"]

_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_USUAL_SPACING_MM = (0.01, 100.0)  # of a voxel's longest side
_MOST_TILT_DEGREES = 1.0
_MOST_VALUES_SHOWN = 10
_LARGEST_OF_8_BITS = 255
_NEARLY = 0.01
_NO_CLASS = "give these voxels a class, 0 for the background"


def header_findings(cases: Sequence[CaseFacts], in_channels: int) -> list[Finding]:
    """Find wrong channels, labels off their image's grid, and units that are probably not mm; cases need headers."""
    found = [finding for case in cases for finding in _grid_findings(case, in_channels)]
    return found + _sheared(cases) + _unlikely_units(cases) + _assumptions(cases)


def _assumptions(cases: Sequence[CaseFacts]) -> list[Finding]:
    """The readers' assumptions about geometry, once per file."""
    headers = {case.image: case.image_header for case in cases if case.image_header}
    headers |= {case.label: case.label_header for case in cases if case.label and case.label_header}
    expected = "one affine"
    return [
        Finding("uncertain_geometry", (file,), f"{file} {note}", expected, note)
        for file, known in headers.items()
        for note in known.notes
    ]


def _sheared(cases: Sequence[CaseFacts]) -> list[Finding]:
    """One finding for all, since a tilted scanner makes many."""
    headers = {case.image: case.image_header for case in cases if case.image_header}
    axes = {file: known.header.affine[:3, :3] / known.spacing for file, known in headers.items()}
    tilts = {
        file: float(np.degrees(np.arcsin(min(1.0, np.abs(np.triu(of.T @ of, 1)).max())))) for file, of in axes.items()
    }
    sheared = {file: tilt for file, tilt in tilts.items() if tilt > _MOST_TILT_DEGREES}
    if not sheared:
        return []
    count = "1 image has" if len(sheared) == 1 else f"{len(sheared)} images have"
    found = file_list([f"{file}: {tilt:.3g} degrees off" for file, tilt in sheared.items()])
    text = f"{count} axes that are not at right angles: {found}"
    return [Finding("sheared", tuple(sheared), text, "axes at right angles", found)]


def _unlikely_units(cases: Sequence[CaseFacts]) -> list[Finding]:
    """One finding for all, since a cohort is usually converted as a whole."""
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


def _grid_findings(case: CaseFacts, in_channels: int) -> list[Finding]:
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
    # programs differ in which of a file's two affines they read and write into a label
    affines = [affine for affine in (image.affine, image.other_affine) if affine is not None]
    if any(axis_change(label.affine, label.spatial_shape, of, image.spatial_shape) is not None for of in affines):
        return []  # the same voxels, at most flipped or permuted, which loading undoes
    if image.spatial_shape != label.spatial_shape:
        text = (
            f"{label_path}: shape {label.spatial_shape} differs from its image's, {image.spatial_shape} ({image_path})"
        )
        return [Finding("shape_mismatch", files, text, str(image.spatial_shape), str(label.spatial_shape))]
    flipped = _flipped_axes(image, label)
    if flipped:
        what = f"the other way along {' and '.join(f'axis {axis}' for axis in flipped)}"
        text = f"{label_path}: affine runs {what} than its image's ({image_path})"
        return [Finding("label_flipped", files, text, "the image's axes", what)]
    apart = grid_distance(label.affine, label.spatial_shape, image.affine, image.spatial_shape)
    if apart is None:  # permuted, so that only the stored shapes agree
        apart = corner_distance(label.affine, image.affine, image.spatial_shape)
    text = f"{label_path}: affine differs from its image's by up to {apart:.4g} mm at the corners ({image_path})"
    return [Finding("affine_mismatch", files, text, "the image's affine", f"corners up to {apart:.4g} mm off")]


def _flipped_axes(image: VolumeHeader, label: VolumeHeader) -> list[int]:
    """Axes with the opposite direction; none if that is not all in which the affines differ.

    Either they were turned about the first voxel, or written as LPS and read as RAS.
    """
    flipped = [axis for axis in range(3) if image.affine[:3, axis] @ label.affine[:3, axis] < 0]
    turned = label.affine.copy()
    turned[:3, flipped] *= -1
    apart = (corner_distance(way, image.affine, image.spatial_shape) for way in (turned, _TO_LPS @ label.affine))
    return flipped if min(apart) <= same_grid_limit(image.affine) else []


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def voxel_findings(
    cases: Sequence[CaseFacts], labels: Mapping[int, str], clipped: bool, label_values: Mapping[int, int] | None = None
) -> list[Finding]:
    """Find intensities and label values that are unfit for training, and files without content; cases need voxels.

    ``clipped``: intensities are clipped to a window, so no value is too extreme. ``label_values``: class index to the
    value in label files; None or empty for class indices. A last name "ignore" is of voxels without a label.
    """
    values = list((label_values or {index: index for index in labels}).values())
    ignored = values[-1] if "ignore" in list(labels.values())[-1:] else None
    key = "label_values" if label_values else "labels"
    found: dict[tuple[str, str], Finding] = {}
    for case in cases:
        for finding in _case_findings(case, values, key, ignored, clipped):
            found[finding.code, finding.files[0]] = finding
    return [*found.values(), *_mapped_masks(cases)]


def _mapped_masks(cases: Sequence[CaseFacts]) -> list[Finding]:
    """One finding for all: it notes how files are read."""
    masks = {case.label: case.label_voxels for case in cases if case.label and case.label_voxels}
    files = tuple(file for file, facts in masks.items() if facts.mapped)
    if not files:
        return []
    count = f"{len(files)} mask{'s' if len(files) > 1 else ''} of 0 and 255"
    text = f"255 is read as class 1 in {count}: {file_list(files)}"
    return [Finding("mask_of_255", files, text, "class indices 0, 1, ...", "0 and 255")]


def _case_findings(
    case: CaseFacts, allowed: Sequence[int], key: str, ignored: int | None, clipped: bool
) -> Iterator[Finding]:
    if case.image_voxels is not None:
        is_ct = case.image_header is not None and case.image_header.header.modality == "CT"
        yield from _image_findings(case.image, case.image_voxels, clipped, is_ct)
    if case.label is not None and case.label_voxels is not None:
        yield from _label_findings(case.label, case.label_voxels, allowed, key, ignored)


def _image_findings(path: str, facts: ImageFacts, clipped: bool, is_ct: bool) -> Iterator[Finding]:
    if facts.not_finite:
        found = f"{facts.not_finite} of {facts.size} intensities are NaN or infinite"
        found += "" if facts.too_large is None else f" as float32 holds them, such as {facts.too_large:g}"
        yield Finding("not_finite", (path,), f"{path}: {found}", "finite intensities", found)
    elif facts.low == facts.high:
        found = f"all intensities are {facts.low:g}"
        yield Finding("constant_image", (path,), f"{path}: {found}", "contrast", found)
    elif facts.sentinel is not None and not clipped:
        found = f"the value {facts.sentinel:g} is so far from the others that scaling leaves nothing of their contrast"
        yield Finding("sentinel", (path,), f"{path}: {found}", "intensities of one range", found)
    elif facts.padding is not None and not clipped and not is_ct:
        found = f"the value {facts.padding:g} fills a part of the image and lies far from all others, as padding does"
        yield Finding("padding", (path,), f"{path}: {found}", "intensities of one range", found)


def _label_findings(
    path: str, facts: LabelFacts, known: Sequence[int], key: str, ignored: int | None
) -> Iterator[Finding]:
    """Findings about a label, given the allowed values (the background's first), their key, and that of "ignore"."""
    values = [value for value, _ in facts.counts]
    allowed = ", ".join(map(str, known))
    shown = ", ".join("nan" if value is None else f"{value:.7g}" for value in values[:_MOST_VALUES_SHOWN])
    more = facts.num_values - _MOST_VALUES_SHOWN
    found = shown + (f" and {more} more" if more > 0 else "")
    if facts.not_finite:
        found = f"{facts.not_finite} of {facts.size} values are NaN or infinite"
        yield Finding("not_finite", (path,), f"{path}: {found}", "class indices", found, _NO_CLASS)
    elif not facts.whole:
        text = f'{path}: values that are not whole numbers of "{key}" ({allowed}): found {found}'
        yield Finding("label_not_whole", (path,), text, allowed, found, _remedy_of_fractions(values))
    elif facts.num_values > len(values) or any(value not in known for value in values):
        text = f'{path}: values outside "{key}" ({allowed}): found {found}'
        yield Finding("label_values", (path,), text, allowed, found, _remedy_of_values(values))
    elif values == [ignored]:
        text = f'{path}: every voxel is "ignore", none is labelled'
        yield Finding("nothing_labeled", (path,), text, "labelled voxels", 'only "ignore"')
    elif set(values) - {ignored} == {known[0]}:
        text = f"{path}: the label is empty (only background)"
        yield Finding("empty_label", (path,), text, "foreground", "only background")
    elif facts.lone_slices and ignored not in values:
        found = f"{facts.lone_slices} slices with structures, none beside another"
        yield Finding("lone_slices", (path,), f"{path}: {found}", "structures that go on in the next slice", found)


def _remedy_of_fractions(values: Sequence[float | None]) -> str:
    """Empty: the code's own."""
    scaled = np.array([value for value in values if value is not None]) * _LARGEST_OF_8_BITS
    if scaled.min() >= 0 and scaled.max() <= _LARGEST_OF_8_BITS and np.abs(scaled - np.rint(scaled)).max() < _NEARLY:
        return "they are class indices divided by 255: multiply them by 255 and correct the file"
    return ""


def _remedy_of_values(values: Sequence[float | None]) -> str:
    """Empty: the code's own."""
    if any(value is not None and value < 0 for value in values):
        return (
            'class indices start at 0: correct the file, or map the values by "label_values"; voxels without a label '
            'are a last class named "ignore"'
        )
    return ""
