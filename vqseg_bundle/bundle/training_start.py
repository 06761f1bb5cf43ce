"""What happens before the first step: inputs opened and checked, the output folder prepared, the run recorded."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqseg_bundle import data, networks
from vqseg_bundle.bundle.folder_lock import FolderLock
from vqseg_bundle.bundle.model_record import (
    check_compatible,
    check_files_hold,
    load_model_record,
    load_weights,
    write_model_record,
)
from vqseg_bundle.bundle.overrides import exit_cleanly, running_parser
from vqseg_bundle.bundle.run_record import check_writable, prepare_output_dir, write_run_record
from vqseg_bundle.handlers import find_resumable, read_checkpoint

__all__ = [
    "DeployedWeights",
    "build_foundation_model",
    "log_to_file",
    "start_training",
]

logger = logging.getLogger(__name__)

#: names of the StatsHandlers' loggers in the configurations
STATS_LOGGERS = ("training", "validation", "codebook", "evaluation", "inference")


class DeployedWeights:
    """What a ModelSaver saves as ``model.pt``: the network's weights without its image decoder.

    Args:
        network: the network to deploy, normally the teacher's.
    """

    def __init__(self, network: networks.VQNetwork) -> None:
        self.network = network

    def state_dict(self) -> dict[str, Tensor]:
        """A plain state dict of the deployed path."""
        return self.network.deployed_state_dict()


def build_foundation_model(
    name: str, weights: str | None, image_size: int | None, device: str
) -> networks.FoundationModel | None:
    """:func:`vqseg_bundle.networks.build_foundation_model`, moved to the device, with a clean end on bad input."""
    model = exit_cleanly(networks.build_foundation_model, name, weights, image_size)
    return model if model is None else model.to(torch.device(device))


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
    """Check everything that can be checked before the first step, and write down what is about to run.

    A training in place on listed cases, MONAI Label's, goes on from the weights in place: they are loaded.

    Args:
        output_dir: where the weights go.
        checkpoint: must be None; training starts anew or resumes.
        in_place: whether that is the bundle's own folder, whose weights stay until new ones replace them, if they are
            of the same kind.
        resume: whether an interrupted run goes on.
        total_iterations: length of the training.
        iterations_per_epoch: iterations of a whole epoch.
        cohort: the opened cohort.
        data_check: "full" or "headers".
        allow_no_labeled: accept a cohort without labelled cases (a federated client may have none).
        in_channels: channels every image must have.
        network: the network to train, for its sizes.
        preprocessing: what inference must repeat.
        unlabeled: the unlabelled cases that are trained on.
        foundation_model: its name, "none" if the adapter is off.
        write: whether this process writes (rank 0).
        lock: of output_dir, which this training is to hold alone; None makes one (configurations of 0.6 have none).

    Raises:
        SystemExit: the input is at fault; the message says what and where.
    """
    exit_cleanly(check_writable, output_dir)
    lock = lock or FolderLock(output_dir)
    if write:
        exit_cleanly(lock.check)
    exit_cleanly(network.check_patch_size, preprocessing["patch_size"])
    if checkpoint is not None:
        raise SystemExit(
            f"checkpoint '{checkpoint}' is read by evaluating and inference only. To go on with an interrupted "
            "training give its output_dir and --resume true."
        )
    described: dict[str, Any] = {
        "network": networks.describe_network(network),
        "labels": cohort.labels,
        "preprocessing": dict(preprocessing),
    }
    if resume:
        resumed = Path(output_dir) / "resume.pt"
        exit_cleanly(check_resume, resumed, total_iterations, iterations_per_epoch, bool(cohort.validation))
    goes_on = in_place and cohort.listed and not resume
    if resume or goes_on:
        record = exit_cleanly(load_model_record, Path(output_dir) / "model.pt")
        exit_cleanly(check_compatible, record, **described)
    if resume:
        exit_cleanly(check_files_hold, record, cohort.channel_names, None if cohort.listed else cohort.label_values)
    if goes_on:
        # here and not in the engine's first event: the teacher starts as their copy, and misfits are refused in time
        exit_cleanly(load_weights, network, Path(output_dir) / "model.pt")
    clipped = bool(preprocessing["intensity_window"])
    checked = (cohort, in_channels, data_check, allow_no_labeled)
    found = exit_cleanly(data.check_cohort, *checked, clipped=clipped) if write else []
    if write:
        exit_cleanly(lock.take)
    replaced = _fitting_record(Path(output_dir), described) if in_place else None
    exit_cleanly(prepare_output_dir, output_dir, resume, keep=replaced is not None)
    if not write:
        return
    log_to_file(Path(output_dir) / "training.log")
    for warning in found:
        logger.warning(warning)
    if not resume:
        # what a user wrote there of the labels, which are the same, holds for the new weights as well
        codes = {key: value for key, value in (replaced or {}).get("info", {}).items() if key == "segment_codes"}
        seen = data.training_geometry([case["image"] for case in [*cohort.training, *unlabeled]])
        demo = {"demo": True} if data.in_demo_cohort(cohort.source) else {}
        channels = {"channel_names": list(cohort.channel_names)} if cohort.channel_names else {}
        info = {"cohort": cohort.name, **demo, "training_volumes": seen, **channels, **codes}
        # listed labels, MONAI Label's, hold class indices, whatever the predictions of the weights in place are
        values = (replaced or {}).get("label_values", {}) if cohort.listed else cohort.label_values
        write_model_record(Path(output_dir) / "model.json", **described, info=info, label_values=values)
    prefix = "resumed_" if resume else ""
    write_run_record(output_dir, running_parser().get(), data.data_digest(cohort), sys.argv, prefix)
    _announce(cohort, unlabeled, foundation_model)


def _fitting_record(folder: Path, described: Mapping[str, Mapping[Any, Any]]) -> dict[str, Any] | None:
    """The record of a folder's weights if they are such as this training's, which takes its place; else None."""
    try:
        record = load_model_record(folder / "model.pt")
        check_compatible(record, **described)
    except (FileNotFoundError, ValueError):
        return None
    return record


def check_resume(path: Path, total_iterations: int, iterations_per_epoch: int, validates: bool) -> None:
    """Refuse to go on with a training of another length, whose schedules would not fit, or with one that has lost all.

    Args:
        path: the resume checkpoint.
        total_iterations: length of this training.
        iterations_per_epoch: iterations of a whole epoch of this training.
        validates: whether ``model.pt`` is written by validations alone.

    Raises:
        ValueError: there is no such checkpoint, none that can be used, or it is of another length; or it is of a
            training that has come to its end, whose ``model.pt`` cannot be used and would not be written again.
    """
    found_path, checkpoint, _ = find_resumable(path)
    engine = checkpoint["engine"]
    found = (engine["total_iterations"], engine["epoch_length"])
    if found != (total_iterations, iterations_per_epoch):
        raise ValueError(
            f"resume: {found_path} is of a training of {found[0]} iterations in epochs of {found[1]}, this one has "
            f"{total_iterations} in epochs of {iterations_per_epoch}. Resume with the settings of the interrupted "
            "training."
        )
    if validates and engine["iteration"] >= total_iterations:
        try:
            read_checkpoint(path.with_name("model.pt"))
        except ValueError as error:
            raise ValueError(
                f"resume: {error} The training has come to its end and would not write it again. Copy the file again; "
                f"or move {found_path.name} away, so that --resume true takes the last epoch once more, from "
                "resume.previous.pt."
            ) from error


def log_to_file(path: Path) -> None:
    """Send the log to a file as well; once, however often it is called.

    Args:
        path: the file, appended to.
    """
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # MONAI's StatsHandler cuts its named loggers off the root
    for logger_ in map(logging.getLogger, (None, *STATS_LOGGERS)):
        # MONAI's federated client initializes a workflow twice
        if not any(getattr(other, "baseFilename", None) == handler.baseFilename for other in logger_.handlers):
            logger_.addHandler(handler)


def _announce(cohort: data.Cohort, unlabeled: Sequence[Mapping[str, str]], foundation_model: str) -> None:
    logger.info(
        "cohort %s: %d labelled, %d unlabelled, %d validation, %d test cases",
        cohort.name,
        len(cohort.training),
        len(unlabeled),
        len(cohort.validation),
        len(cohort.test),
    )
    if not unlabeled:
        logger.info("no unlabelled cases: training is supervised, on the labelled cases alone")
    if not cohort.validation:
        logger.info("no validation cases: the last teacher is saved, none is selected")
    if foundation_model == "none":
        logger.info(
            "the foundation-model adapter (PFA) is off; add configs/pfa.json to --config_file and give "
            "--foundation_weights FILE to turn it on"
        )
