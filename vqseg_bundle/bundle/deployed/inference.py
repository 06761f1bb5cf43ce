"""The volumes of an inference: those found, those that can be segmented, and those that were left out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqseg_bundle import data, networks
from vqseg_bundle.bundle.cohort.run_geometry import warn_of_geometry
from vqseg_bundle.bundle.deployed.deployment import check_demo_weights, check_weights
from vqseg_bundle.bundle.records.folder_lock import check_unused, use_folder
from vqseg_bundle.bundle.records.log_file import log_to_file
from vqseg_bundle.bundle.records.model_record import check_compatible
from vqseg_bundle.bundle.records.run_record import check_writable, put_aside
from vqseg_bundle.bundle.settings.clean_exit import exit_cleanly
from vqseg_bundle.bundle.settings.components import check_device
from vqseg_bundle.bundle.settings.named_sides import mirrored_copies
from vqseg_bundle.common import visible_line

__all__ = ["finish_inference", "list_inference_cases", "start_inference"]

logger = logging.getLogger(__name__)

_MOST_SHOWN = 10


def list_inference_cases(
    dataset_dir: str | None, uneven_slices: str = "refuse", in_channels: int = 1, channel_names: Sequence[str] = ()
) -> list[dict[str, str]]:
    """:func:`vqseg_bundle.data.list_volumes`, with a clean end on bad input; without a folder, no volumes."""
    asked = (dataset_dir, uneven_slices, in_channels, channel_names)
    return exit_cleanly(data.list_volumes, *asked) if dataset_dir else []


def start_inference(
    device: str,
    output_dir: str,
    cases: list[dict[str, str]],
    data_check: str,
    record: Mapping[str, Any],
    network: networks.VQNetwork,
    preprocessing: Mapping[str, Any],
    orientation: str | None = None,
    mirror_axes: Sequence[int] = (),
) -> list[Mapping[str, str]]:
    """Check volumes, weights and output folder before the first case; faulty volumes are left out and logged.

    Args:
        device: the device.
        output_dir: folder of the predictions; earlier ones that would be overwritten are moved aside.
        cases: the volumes; if there are none, nothing is prepared.
        data_check: "full" or "headers".
        record: of the weights.
        network: receives the weights.
        preprocessing: this inference's; must be the same as in training.
        orientation: to which the volumes are brought; None leaves them as stored.
        mirror_axes: along which mirrored copies are averaged.

    Returns:
        The cases to run on.

    Raises:
        SystemExit: the input is at fault, or every volume is, or another inference is writing there; the message says
            what and where.
    """
    exit_cleanly(check_device, device)
    exit_cleanly(check_writable, output_dir)
    exit_cleanly(check_unused, output_dir, "inference")
    if record["checkpoint"] is None:
        raise SystemExit(record["missing"])
    exit_cleanly(check_weights, network, record)
    exit_cleanly(check_compatible, record, preprocessing=preprocessing)
    if not cases:
        # monai.bundle.load initializes a workflow only for its network; a run without volumes ends in the config
        logger.info("dataset_dir is not given: the network can be used, there is nothing to run on")
        return []
    exit_cleanly(check_demo_weights, record, [case["image"] for case in cases])
    in_channels = record["network"]["in_channels"]
    clipped = bool(preprocessing["intensity_window"])
    checked = exit_cleanly(data.check_cases, cases, record["labels"], in_channels, data_check, True, clipped=clipped)
    exit_cleanly(use_folder, output_dir, "inference")
    if any(_prediction(output_dir, case).exists() for case in cases):
        inputs = [("image", case["image"]) for case in checked.sound]
        exit_cleanly(put_aside, Path(output_dir).parent, (Path(output_dir).name,), inputs=inputs)
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    log = Path(output_dir) / "inference.log"
    log_to_file(log)
    # in Python there may be nothing to log, but prediction_folder knows inference's folder by this file
    log.touch()
    for error in checked.errors:
        logger.error("left out: %s", error)
    for warning in [*checked.warnings, *mirrored_copies(record["labels"].values(), mirror_axes)]:
        logger.warning(warning)
    warn_of_geometry(checked.sound, record, orientation)
    count = len(checked.sound)
    logger.info("%d volume%s, predictions go to %s", count, "" if count == 1 else "s", output_dir)
    return checked.sound


def finish_inference(cases: Sequence[Mapping[str, str]], output_dir: str) -> None:
    """Log the number of volumes without a prediction.

    Args:
        cases: all volumes found.
        output_dir: folder of the predictions.

    Raises:
        SystemExit: none has one.
    """
    left_out = [visible_line(case["case"]) for case in cases if not _prediction(output_dir, case).exists()]
    if not left_out:
        return
    more = len(left_out) - _MOST_SHOWN
    shown = ", ".join(left_out[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
    what = f"{len(left_out)} of {len(cases)} volumes were left out: {shown}. The log says why, line by line"
    if len(left_out) == len(cases):
        raise SystemExit(f"{what}.")
    logger.warning("%s, also in %s.", what, Path(output_dir) / "inference.log")


def _prediction(output_dir: str, case: Mapping[str, str]) -> Path:
    return Path(output_dir) / f"{case['case']}_pred.nii.gz"
