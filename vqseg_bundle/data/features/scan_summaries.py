"""A vector and a small picture of each scan of a cohort, made once and remembered by the scan's content."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm

from vqseg_bundle.common import replacing

from ..errors import DataError
from .slice_features import content_digest

__all__ = ["ScanSummary", "summarize_scans"]

_FORMAT = 1  # of the files; increase it when content or layout changes
logger = logging.getLogger(__name__)


class ScanSummary(NamedTuple):
    """What a choice needs to know of a scan.

    Attributes:
        features: ``(F,)``, float32.
        picture: one slice, uint8 ``(rows, columns)``.
        row_to_column: height over width of its pixels.
    """

    features: np.ndarray
    picture: np.ndarray
    row_to_column: float


def summarize_scans(
    images: Sequence[str],
    summarize: Callable[[str], ScanSummary],
    folder: Path | None,
    made_by: Mapping[str, Any],
    progress: bool = True,
) -> list[ScanSummary]:
    """The summaries of images, in order; those known are read.

    Args:
        images: paths.
        summarize: makes one.
        folder: where summaries are kept, by a digest of the image's content and of ``made_by``; None: nowhere.
        made_by: everything else that they depend on, as JSON.
        progress: whether a bar is shown on a terminal.

    Raises:
        DataError: a feature is not finite; the message names the image.
    """
    recipe = json.dumps({"format": _FORMAT, **made_by}, sort_keys=True)
    found = []
    for image in tqdm(images, "features", unit="scan", disable=None if progress else True):
        if folder is None:
            found.append(_sound(image, summarize(image)))
            continue
        name = hashlib.sha256(f"{recipe} {content_digest(image)}".encode()).hexdigest()[:32]
        path = folder / f"{name}.npz"
        known = _read(path)
        if known is None:
            known = _sound(image, summarize(image))
            _write(path, known)
        found.append(known)
    return found


def _sound(image: str, summary: ScanSummary) -> ScanSummary:
    if not np.isfinite(summary.features).all():
        raise DataError(f"{image}: its features are not finite; look for damaged voxels with vqseg check.")
    return summary


def _read(path: Path) -> ScanSummary | None:
    try:
        with np.load(path, allow_pickle=False) as content:
            return ScanSummary(content["features"], content["picture"], float(content["row_to_column"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        logger.warning("%s is damaged and made anew (%s)", path, error)
        return None


def _write(path: Path, summary: ScanSummary) -> None:
    try:
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, **summary._asdict())
    except OSError as error:
        logger.info("features are not remembered, %s cannot be written (%s)", path, error)
