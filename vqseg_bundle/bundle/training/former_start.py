"""The start of a training for configurations of 0.7 and earlier, instead of ``training_start``'s steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqseg_bundle import data, networks
from vqseg_bundle.bundle.records.folder_lock import FolderLock
from vqseg_bundle.bundle.records.model_record import check_compatible, load_model_record
from vqseg_bundle.bundle.settings.running_workflow import running_parser
from vqseg_bundle.bundle.training.continuation import check_continuation
from vqseg_bundle.bundle.training.training_start import (
    announce_training,
    check_run,
    check_training_data,
    describe_training,
    open_training_folder,
    record_training,
)
from vqseg_bundle.common import write_json

__all__ = ["start_training"]


def start_training(
    output_dir: str,
    checkpoint: str | None,
    in_place: bool,
    resume: bool,
    total_iterations: int,
    iterations_per_epoch: int,
    cohort: data.Cohort,
    data_check: str,
    allow_no_labeled: bool,
    in_channels: int,
    network: networks.VQNetwork,
    preprocessing: Mapping[str, Any],
    unlabeled: Sequence[Mapping[str, str]],
    foundation_model: str,
    write: bool,
    lock: FolderLock | None = None,
) -> None:
    """All steps at once; the record is written at the start, since these configurations' handlers do not write it.

    Args:
        output_dir: folder of the weights.
        checkpoint: see :func:`~vqseg_bundle.bundle.check_run`.
        in_place: whether that is the bundle's own folder.
        resume: whether to resume an interrupted run.
        total_iterations: length of the training.
        iterations_per_epoch: iterations of a whole epoch.
        cohort: the opened cohort.
        data_check: see :func:`~vqseg_bundle.bundle.check_training_data`.
        allow_no_labeled: see :func:`~vqseg_bundle.bundle.check_training_data`.
        in_channels: see :func:`~vqseg_bundle.bundle.check_training_data`.
        network: the network to train.
        preprocessing: the preprocessing that inference must repeat.
        unlabeled: the unlabelled training cases.
        foundation_model: its name.
        write: whether this process is the first.
        lock: lock of output_dir; None makes one.

    Raises:
        SystemExit: the input is at fault; the message says what and where.
    """
    lock = lock or FolderLock(output_dir)
    check_run(output_dir, lock, checkpoint, network, preprocessing["patch_size"])
    described = describe_training(network, cohort.labels, preprocessing)
    goes_on = in_place and cohort.listed and not resume
    iterations = (total_iterations, iterations_per_epoch)
    check_continuation(output_dir, resume, goes_on, described, network, cohort, iterations)
    clipped = bool(preprocessing["intensity_window"])
    warnings = check_training_data(cohort, in_channels, data_check, allow_no_labeled, clipped)
    stays = in_place and _fits(Path(output_dir) / "model.pt", described)
    open_training_folder(output_dir, lock, resume, stays, warnings, total_iterations)
    record = record_training(output_dir, described, cohort, unlabeled, resume, stays, running_parser())
    if write and record:
        write_json(Path(output_dir) / "model.json", record)
    announce_training(cohort, unlabeled, foundation_model)


def _fits(weights: Path, described: Mapping[str, Mapping[Any, Any]]) -> bool:
    try:
        check_compatible(load_model_record(weights), **described)
    except (FileNotFoundError, ValueError):
        return False
    return True
