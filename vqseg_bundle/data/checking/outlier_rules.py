"""Rules about files that differ from the rest of their cohort.

A value is an outlier if its ratio to the cohort's median exceeds both a fixed factor and six robust standard deviations
(1.4826 times the median absolute deviation) of the logarithm, so that a cohort that naturally varies widely has few.
Outliers of one kind make one finding, which names all their files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import file_list
from ..geometry.training_geometry import has_geometry
from .facts import CaseFacts, HeaderFacts, ImageFacts
from .findings import Finding

__all__ = ["geometry_outliers", "turned_images", "voxel_outliers"]

_FEWEST = 5  # values needed for a median
_DEVIATIONS = 6.0
_LARGEST_RATIO = {"shape": 3.0, "spacing": 3.0, "anisotropy": 4.0, "intensity": 10.0, "share": 10.0}
_MAJORITY = 0.6
_AIR_BELOW = -500.0  # HU
_TURNED = 0.14  # logarithm of 1.15, by which augmentation stretches views in any case


def geometry_outliers(cases: Sequence[CaseFacts]) -> list[Finding]:
    """Find images of unusual size, voxel size or orientation; cases need headers."""
    headers = {case.image: case.image_header for case in cases if case.image_header}
    files = list(headers)
    if len(files) < _FEWEST:
        return []
    shapes = np.sort([headers[file].header.spatial_shape for file in files])
    spacings = np.sort([headers[file].spacing for file in files])
    found, single = [], set()
    if np.median(shapes[:, 0]) >= 3:
        single = {file for file, shape in zip(files, shapes, strict=True) if shape[0] == 1}
        found += _finding("single_slice", sorted(single), "are a single slice", "several slices", {})
    shape_outliers = {file for file in _outliers(files, shapes, "shape") if file not in single}
    found += _shape_finding(sorted(shape_outliers), headers, shapes)
    spacing_outliers = set(_outliers(files, spacings, "spacing"))
    found += _spacing_finding(sorted(spacing_outliers), headers, spacings)
    elongation = spacings[:, 2] / spacings[:, 0]
    elongated = [file for file in _outliers(files, elongation[:, None], "anisotropy") if file not in spacing_outliers]
    expected = f"a ratio of voxel sides near {np.median(elongation):.3g}"
    found += _finding(
        "anisotropy_outlier", elongated, "have unusually elongated voxels", expected, _spacings(elongated, headers)
    )
    return found + _orientation_outliers(headers)


def turned_images(cases: Sequence[CaseFacts]) -> list[Finding]:
    """Find images without geometry that lie on their side, if no labelled training image does; cases need headers.

    On their side: wider than high while all labelled ones are higher than wide, or the reverse, by at least 15 %.
    """
    headers = {case.image: case.image_header for case in cases if case.image_header}
    aspects = {
        file: float(np.log(known.shape[0] / known.shape[1]))
        for file, known in headers.items()
        if len(known.shape) > 1 and not has_geometry(known.header)
    }
    labeled = [aspects[case.image] for case in cases if case.split == "training" and case.image in aspects]
    if not labeled or min(labeled) * max(labeled) <= 0:
        return []
    side = np.sign(labeled[0])
    turned = [file for file, aspect in aspects.items() if side * aspect < -_TURNED]
    expected = f"the longer axis where all {len(labeled)} labelled images have it"
    shown = {file: _by(headers[file].shape[:2]) for file in turned}
    return _finding("turned_images", turned, "are turned by a quarter", expected, shown)


def voxel_outliers(cases: Sequence[CaseFacts], labels: Mapping[int, str]) -> list[Finding]:
    """Find images of unusual intensities and labels of unusual structures; cases need voxels."""
    known = {case.image: case.image_voxels for case in cases if case.image_voxels}
    images = {file: facts for file, facts in known.items() if facts.spread > 0 and facts.sentinel is None}
    return [*_intensity_outliers(images), *_share_outliers(cases, labels)]


def _intensity_outliers(images: Mapping[str, ImageFacts]) -> list[Finding]:
    files = list(images)
    if len(files) < _FEWEST:
        return []
    air = [file for file in files if images[file].low <= _AIR_BELOW]
    shifted = [file for file in files if images[file].low >= 0] if len(air) >= _MAJORITY * len(files) else []
    expected = f"values below {_AIR_BELOW:g}, as {len(air)} of {len(files)} images"
    lows = {file: f"from {images[file].low:g}" for file in shifted}
    found = _finding("not_hounsfield", shifted, "have no negative intensities", expected, lows)
    spreads = np.array([[images[file].spread] for file in files])
    outliers = [file for file in _outliers(files, spreads, "intensity") if file not in shifted]
    expected = f"a range near the median, {np.median(spreads):.4g}"
    ranges = {file: f"{images[file].spread:.4g}" for file in outliers}
    return found + _finding("intensity_outlier", outliers, "have an unusual intensity range", expected, ranges)


def _share_outliers(cases: Sequence[CaseFacts], labels: Mapping[int, str]) -> list[Finding]:
    facts = {case.label: case.label_voxels for case in cases if case.label and case.label_voxels}
    found = []
    for index, name in labels.items():
        shares = {file: dict(known.counts).get(index, 0) / known.size for file, known in facts.items()}
        shares = {file: share for file, share in shares.items() if share > 0}
        if index == 0 or len(shares) < _FEWEST:
            continue
        values = np.array(list(shares.values()))[:, None]
        outliers = _outliers(list(shares), values, "share")
        expected = f"a share near the median, {np.median(values):.3%}"
        shown = {file: f"{shares[file]:.3%}" for file in outliers}
        what = f'have an unusual share of class {index} ("{name}")'
        found += _finding("label_share_outlier", outliers, what, expected, shown)
    return found


def _orientation_outliers(headers: Mapping[str, HeaderFacts]) -> list[Finding]:
    codes = {file: known.axis_codes for file, known in headers.items()}
    most, count = Counter(codes.values()).most_common(1)[0]
    if count < _MAJORITY * len(codes):
        return []
    others = {file: code for file, code in codes.items() if code != most}
    return _finding("orientation_outlier", list(others), "run along other axes", f"{most}, as {count} images", others)


def _shape_finding(files: Sequence[str], headers: Mapping[str, HeaderFacts], shapes: np.ndarray) -> list[Finding]:
    expected = f"sizes near {_by(np.median(shapes, axis=0))}"
    shown = {file: _by(headers[file].header.spatial_shape) for file in files}
    return _finding("shape_outlier", files, "have an unusual size", expected, shown)


def _spacing_finding(files: Sequence[str], headers: Mapping[str, HeaderFacts], spacings: np.ndarray) -> list[Finding]:
    expected = f"voxels near {_by(np.median(spacings, axis=0))} mm"
    return _finding("spacing_outlier", files, "have an unusual voxel size", expected, _spacings(files, headers))


def _spacings(files: Sequence[str], headers: Mapping[str, HeaderFacts]) -> dict[str, str]:
    return {file: f"{_by(headers[file].spacing)} mm" for file in files}


def _finding(code: str, files: Sequence[str], what: str, expected: str, values: Mapping[str, str]) -> list[Finding]:
    if not files:
        return []
    shown = [f"{file}: {values[file]}" if file in values else file for file in files]
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    found = file_list(shown)
    text = f"{count} {what if len(files) > 1 else _singular(what)} (expected {expected}): {found}"
    return [Finding(code, tuple(files), text, expected, found)]


def _singular(what: str) -> str:
    verb, _, rest = what.partition(" ")
    return f"{ {'have': 'has', 'are': 'is', 'run': 'runs'}[verb] } {rest}"


def _outliers(files: Sequence[str], values: np.ndarray, kind: str) -> list[str]:
    """Files with an outlying value in any column of ``(N, columns)``."""
    logs = np.log(values)
    away = np.abs(logs - np.median(logs, axis=0))
    limit = np.maximum(np.log(_LARGEST_RATIO[kind]), _DEVIATIONS * 1.4826 * np.median(away, axis=0))
    return [file for file, out in zip(files, (away > limit).any(axis=1), strict=True) if out]


def _by(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
