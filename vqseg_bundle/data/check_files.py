"""Problems in the files of cases: first in all headers, then in all voxels."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from tqdm import tqdm

from .datalist import DataError
from .volume_io import VolumeHeader, read_header, read_voxels

__all__ = ["check_headers", "check_voxels"]

_AFFINE_TOLERANCE = 1e-3  # share of a voxel's smallest side
_MOST_VALUES_SHOWN = 10


def check_headers(cases: Sequence[Mapping[str, str]], in_channels: int) -> list[str]:
    """Return the problems that headers show: unreadable files, channels, shapes and affines."""
    return [problem for case in cases for problem in _header_problems(case, in_channels)]


def check_voxels(
    cases: Sequence[Mapping[str, str]], labels: Mapping[int, str], progress: bool
) -> tuple[list[str], list[str]]:
    """Read all voxels, in a few threads.

    Returns:
        Problems (not a number or infinite, values outside ``labels``, files broken within) and warnings (images
        without any contrast, labels without foreground, images that two cases share).
    """
    # Unpacking releases the interpreter's lock; every thread holds a volume, so there are few.
    threads = min(4, max(2, os.cpu_count() or 2))
    with ThreadPoolExecutor(threads) as pool:
        findings = pool.map(partial(_inspect_voxels, labels=labels), cases)
        bar = tqdm(findings, "checking voxels", len(cases), unit="case", disable=None if progress else True)
        results = list(bar)
    problems = [problem for result in results for problem in result.problems]
    warnings = [warning for result in results for warning in result.warnings]
    return problems, warnings + _shared_images(cases, [result.digest for result in results])


@dataclass
class _Findings:
    digest: str = ""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def _header_problems(case: Mapping[str, str], in_channels: int) -> list[str]:
    problems: list[str] = []
    headers: dict[str, VolumeHeader] = {}
    for key in ("image", "label"):
        if key in case:
            try:
                headers[key] = read_header(case[key])
            except DataError as error:
                problems.append(str(error))
    if "image" in headers and headers["image"].channels != in_channels:
        problems.append(
            f"{case['image']}: expected {_channels(in_channels)} (in_channels), found "
            f"{_channels(headers['image'].channels)} (shape {headers['image'].shape}); convert the image, or set "
            "in_channels if the network has that many."
        )
    if "label" in headers and headers["label"].channels != 1:
        problems.append(f"{case['label']}: expected a label of 1 channel, found shape {headers['label'].shape}.")
    if len(headers) == 2:
        problems += _geometry_problems(case, headers["image"], headers["label"])
    return problems


def _geometry_problems(case: Mapping[str, str], image: VolumeHeader, label: VolumeHeader) -> list[str]:
    if image.spatial_shape != label.spatial_shape:
        return [
            f"{case['label']}: shape {label.spatial_shape} differs from its image's, {image.spatial_shape} "
            f"({case['image']}); resample the label to the image, or correct the pairing."
        ]
    voxel = np.linalg.norm(image.affine[:3, :3], axis=0).min()
    difference = float(np.abs(image.affine - label.affine).max())
    if difference > _AFFINE_TOLERANCE * voxel:
        return [
            f"{case['label']}: affine differs from its image's by up to {difference:.4g} mm ({case['image']}); if the "
            "voxels do match, copy the image's header to the label."
        ]
    return []


def _inspect_voxels(case: Mapping[str, str], labels: Mapping[int, str]) -> _Findings:
    findings = _Findings()
    try:
        _inspect_image(case["image"], findings)
        if "label" in case:
            _inspect_label(case["label"], labels, findings)
    except DataError as error:
        findings.problems.append(str(error))
    return findings


def _inspect_image(path: str, findings: _Findings) -> None:
    voxels = read_voxels(path)
    low, high = float(voxels.min()), float(voxels.max())
    if not np.isfinite([low, high]).all():
        count = int(voxels.size - np.isfinite(voxels).sum())
        findings.problems.append(
            f"{path}: {count} of {voxels.size} intensities are NaN or infinite; replace them, by the background's "
            "value for example."
        )
        return
    if low == high:
        findings.warnings.append(f"{path}: all intensities are {low:g}.")
    digest = hashlib.sha256(f"{voxels.shape} {voxels.dtype}".encode())
    digest.update(np.ascontiguousarray(voxels.T).data)
    findings.digest = digest.hexdigest()


def _inspect_label(path: str, labels: Mapping[int, str], findings: _Findings) -> None:
    values = np.unique(read_voxels(path).T)
    unknown = [float(value) for value in values if value not in labels]
    if unknown:
        shown = ", ".join(f"{float(value):g}" for value in values[:_MOST_VALUES_SHOWN])
        more = f" and {len(values) - _MOST_VALUES_SHOWN} more" if len(values) > _MOST_VALUES_SHOWN else ""
        kind = "values that are not whole numbers" if not all(v.is_integer() for v in unknown) else "values outside"
        findings.problems.append(
            f'{path}: {kind} "labels" ({", ".join(map(str, labels))}): found {shown}{more}; correct the file, or name '
            'the class in "labels".'
        )
    elif not values.any():
        findings.warnings.append(f"{path}: the label is empty (background alone).")


def _shared_images(cases: Sequence[Mapping[str, str]], digests: Sequence[str]) -> list[str]:
    groups: dict[str, dict[str, None]] = defaultdict(dict)
    for case, digest in zip(cases, digests, strict=True):
        if digest:
            groups[digest][case["image"]] = None
    return [f"identical images: {', '.join(images)}." for images in groups.values() if len(images) > 1]


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"
