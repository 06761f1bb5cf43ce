"""Orientation of a run's volumes: the training's choice, and the log of an evaluation or inference."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqseg_bundle import data
from vqseg_bundle.bundle.records.model_record import load_model_record
from vqseg_bundle.bundle.settings.clean_exit import exit_cleanly

__all__ = ["choose_run_orientation", "training_orientation", "training_slice_axis", "warn_of_geometry"]

logger = logging.getLogger(__name__)

_NEW_TRAININGS = "RAS"
_MOST_SHOWN = 4


def training_orientation(output_dir: str, goes_on: bool, initial_weights: str | None = None) -> str | None:
    """The orientation of a training's volumes: RAS, or that of the training which it continues.

    Args:
        output_dir: folder of the weights.
        goes_on: whether the training continues from weights there.
        initial_weights: weights with which it begins instead, or None.

    Returns:
        None, for volumes as stored, if a training of 0.6 or earlier continues.

    Raises:
        SystemExit: the record of those weights cannot be used.
    """
    checkpoint = Path(initial_weights) if initial_weights and not goes_on else Path(output_dir) / "model.pt"
    if not ((goes_on or initial_weights) and checkpoint.with_suffix(".json").is_file()):
        return _NEW_TRAININGS
    orientation = exit_cleanly(load_model_record, checkpoint)["preprocessing"].get("orientation")
    exit_cleanly(data.check_orientation, orientation)
    return orientation


def training_slice_axis(images: Sequence[str], slice_axis: int | str, orientation: str | None) -> int | str:
    """:func:`vqseg_bundle.data.geometry.slice_axis`, with a clean end on bad input."""
    return exit_cleanly(data.cohort_slice_axis, images, slice_axis, orientation)


def choose_run_orientation(cases: Sequence[Mapping[str, Any]], orientation: str | None) -> str | None:
    """:func:`vqseg_bundle.data.run_orientation` of the cases' images, with a clean end on bad input."""
    return exit_cleanly(data.run_orientation, [case["image"] for case in cases], orientation)


def warn_of_geometry(cases: Sequence[Mapping[str, Any]], record: Mapping[str, Any], chosen: str | None) -> None:
    """Log the assumed orientation of the volumes, and each case that clearly differs from the training's.

    Args:
        cases: with "image".
        record: the weights' record.
        chosen: the orientation to which volumes are brought; None leaves them as stored.
    """
    headers = data.readable_headers(case["image"] for case in cases)
    preprocessing = record["preprocessing"]
    if preprocessing["orientation"] is None:
        _warn_of_assumption(list(headers.values()), record["checkpoint"], chosen)
    trained = record.get("info", {}).get("training_volumes")  # records of 0.6 and earlier lack the key
    if trained is None:
        return
    plane = data.name_slice_axis(preprocessing["slice_axis"], preprocessing["orientation"])
    for image, header in headers.items():
        try:
            differences = data.unlike_training(header, trained, plane)
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            logger.warning("the volumes are not compared with the training's: model.json's record of them: %r", error)
            return
        if differences:
            logger.warning("%s is unlike the volumes of the training: %s", image, "; ".join(differences))


def _warn_of_assumption(headers: Sequence[data.VolumeHeader], checkpoint: str, chosen: str | None) -> None:
    if not any(map(data.has_geometry, headers)):
        return
    counts = Counter(map(data.find_orientation, headers)).most_common(_MOST_SHOWN)
    stored = ", ".join(f"{count} {codes}" for codes, count in counts)
    taken = "are taken as they are stored" if chosen is None else f"are all brought to {chosen}"
    logger.warning(
        "%s: its model.json does not say how the training's volumes were oriented (that of version 0.6 or before never "
        "does). The volumes (%s) %s, which is right if those of the training were stored so; else left and right, or "
        "the plane of the slices, may be exchanged. Say how they were, by --orientation RAS (or LPS, ...) or by "
        '"orientation": "RAS" under "preprocessing" in model.json.',
        checkpoint,
        stored,
        taken,
    )
