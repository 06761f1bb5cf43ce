"""The steps before the first iteration of a training, in the order of ``start`` in ``configs/train.json``.

With several processes, the first one checks the data and writes; each process checks what it needs itself.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from vqseg_bundle import data, networks
from vqseg_bundle.bundle.records.folder_lock import FolderLock
from vqseg_bundle.bundle.records.learnt_patients import learnt_patients
from vqseg_bundle.bundle.records.log_file import log_to_file
from vqseg_bundle.bundle.records.model_record import load_model_record, model_record
from vqseg_bundle.bundle.records.moved_files import EVALUATION_OUTPUTS, named_inputs
from vqseg_bundle.bundle.records.run_record import (
    check_writable,
    prediction_folder,
    prepare_output_dir,
    put_aside,
    write_run_record,
)
from vqseg_bundle.bundle.settings.clean_exit import exit_cleanly
from vqseg_bundle.bundle.settings.running_workflow import running_parser
from vqseg_bundle.bundle.training.training_plan import with_planned_values
from vqseg_bundle.common import process_rank, remove_partial_files, write_json
from vqseg_bundle.handlers import find_resumable
from vqseg_bundle.planning import Plan

__all__ = [
    "DeployedWeights",
    "announce_training",
    "build_foundation_model",
    "check_run",
    "check_training_data",
    "describe_training",
    "open_training_folder",
    "record_training",
]

logger = logging.getLogger(__name__)


class DeployedWeights:
    """The content of ``model.pt`` for a ModelSaver: the network's weights without its image decoder.

    Args:
        network: the deployed network, normally the teacher's.
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
    if name == "none":
        if weights is not None and process_rank() == 0:
            logger.warning("foundation_weights is given but not used: foundation_model is none; add configs/pfa.json.")
        return None  # without a second for timm
    model = exit_cleanly(networks.build_foundation_model, name, weights, image_size)
    return model if model is None else model.to(torch.device(device))


def describe_training(
    network: networks.VQNetwork, labels: Mapping[int, str], preprocessing: Mapping[str, Any]
) -> dict[str, Any]:
    """The sections of the record that are known before the first step.

    Args:
        network: the network to train.
        labels: class index to class name, background included.
        preprocessing: what inference must repeat.
    """
    expected = {
        "out_channels": max(2, len(labels)),
        **{key: preprocessing[key] for key in ("in_channels", "spatial_dims")},
    }
    for key, channels in expected.items():
        found = network.arguments.get(key, channels)
        if found != channels or (key == "out_channels" and len(labels) < 2):
            classes = f", for the labels {', '.join(map(str, labels))}" if key == "out_channels" else ""
            raise SystemExit(f"network_def#{key}: expected {channels}{classes}, found {found!r}; leave it out.")
    return {
        "network": networks.describe_network(network),
        "labels": dict(labels),
        "preprocessing": dict(preprocessing),
    }


def check_run(
    output_dir: str,
    lock: FolderLock,
    checkpoint: str | None,
    network: networks.VQNetwork,
    patch_size: Sequence[int],
    aligned: bool = False,
) -> None:
    """Refuse settings that are invalid regardless of data and earlier weights; nothing is written.

    Args:
        output_dir: folder of the weights.
        lock: lock of that folder, which no other process may hold.
        checkpoint: must be None; training starts from scratch or resumes.
        network: the network to train, for its sizes.
        patch_size: voxels of a view.
        aligned: whether an adapter compares its tokens with a foundation model's features.

    Raises:
        SystemExit: a setting is at fault; the message says which.
    """
    exit_cleanly(check_writable, output_dir)
    if process_rank() == 0:
        exit_cleanly(lock.check)
    exit_cleanly(network.check_patch_size, patch_size)
    if aligned:
        exit_cleanly(network.check_whole_tokens, patch_size)
    if checkpoint is not None:
        raise SystemExit(
            f"checkpoint '{checkpoint}' is read by evaluating and inference only. To go on with an interrupted "
            "training give its output_dir and --resume true."
        )


def check_training_data(
    cohort: data.Cohort, in_channels: int, data_check: str, allow_no_labeled: bool, clipped: bool
) -> list[str]:
    """:func:`vqseg_bundle.data.check_cohort` in the first process, with a clean end on bad input; else no warnings."""
    if process_rank() != 0:
        return []
    return exit_cleanly(data.check_cohort, cohort, in_channels, data_check, allow_no_labeled, clipped=clipped)


def open_training_folder(
    output_dir: str,
    lock: FolderLock,
    resume: bool,
    in_place: bool,
    warnings: Sequence[str],
    total_iterations: int | None = None,
    parser: ConfigParser | None = None,
) -> None:
    """Take the output folder, move an earlier run's files aside, remove a killed one's unfinished files, and log there.

    A resumed training keeps the earlier one's files, but an evaluation of the weights that it will replace moves aside.

    Args:
        output_dir: the folder.
        lock: lock of that folder, held until the training ends.
        resume: whether this run resumes the earlier one.
        in_place: whether its weights are kept until new ones replace them.
        warnings: warnings about the data, for the log.
        total_iterations: length of the training; one that has come to it already replaces no weights.
        parser: the running configuration's, whose inputs stay; None, in configurations of 0.12 and before, looks for
            it.

    Raises:
        SystemExit: another process holds the folder, or an input is among an earlier run's files there.
    """
    is_first = process_rank() == 0
    if is_first:
        exit_cleanly(lock.take)
    inputs = named_inputs(running_parser(parser)) if is_first else []
    exit_cleanly(prepare_output_dir, output_dir, resume, keep=in_place, inputs=inputs)
    if is_first:
        folder = Path(output_dir)
        log_to_file(folder / "training.log")
        left = [name for place in (folder, folder / "codebook") for name in remove_partial_files(place)]
        if left:
            logger.info("removed what killed saves have left in %s: %s", output_dir, ", ".join(sorted(left)))
        for warning in warnings:
            logger.warning(warning)
        if resume:
            _put_evaluation_aside(folder, total_iterations, inputs)


def _put_evaluation_aside(folder: Path, total_iterations: int | None, inputs: Sequence[tuple[str, str]]) -> None:
    predictions = Path(prediction_folder(folder, "evaluation"))
    patterns = (*EVALUATION_OUTPUTS, *((predictions.name,) if predictions.parent == folder else ()))
    if not any(path for pattern in patterns for path in folder.glob(pattern)) or _has_ended(folder, total_iterations):
        return
    moved = exit_cleanly(put_aside, folder, patterns, inputs=inputs)
    logger.info("%s has an evaluation of the weights before this training goes on; evaluate again when it ends", moved)


def _has_ended(folder: Path, total_iterations: int | None) -> bool:
    if total_iterations is None:
        return False
    return find_resumable(folder / "resume.pt")[1]["engine"]["iteration"] >= total_iterations


def record_training(
    output_dir: str,
    described: Mapping[str, Mapping[Any, Any]],
    cohort: data.Cohort,
    unlabeled: Sequence[Mapping[str, str]],
    resume: bool,
    in_place: bool,
    parser: ConfigParser,
    plan: Plan | None = None,
    mixed_precision: bool | None = None,
    initial_weights: str | None = None,
) -> dict[str, Any]:
    """Record the run: ``config.json``, ``run.json`` and, for new weights, ``model.json``.

    Weights in place keep their record until they are replaced; the returned one is then written with the new weights.

    Args:
        output_dir: the folder.
        described: see :func:`describe_training`.
        cohort: the opened cohort.
        unlabeled: the unlabelled training cases.
        resume: whether to resume an interrupted training, whose record is kept.
        in_place: whether the bundle's own weights are trained further.
        parser: the running configuration's.
        plan: its values are recorded in place of the references to them; None in configurations of 0.8 and earlier.
        mixed_precision: whether this run computes so, for one that resumes it; None in configurations of 0.12.0 and
            earlier.
        initial_weights: weights with which a new training begins, or None.

    Returns:
        The content of the new weights' ``model.json``; empty when resuming, and in all processes except the first.
    """
    if process_rank() != 0:
        return {}
    config = parser.get() if plan is None else with_planned_values(parser.get(), plan)
    command = (config, data.data_digest(cohort), sys.argv)
    prefix = "resumed_" if resume else ""
    before = (output_dir if in_place else None, initial_weights and Path(initial_weights).parent)
    learnt = learnt_patients([*cohort.training, *unlabeled], *before)
    write_run_record(output_dir, *command, prefix=prefix, mixed_precision=mixed_precision, learnt_from=learnt)
    if resume:
        return {}
    path = Path(output_dir) / "model.json"
    replaced = load_model_record(path) if in_place else {}
    begun = replaced if in_place or initial_weights is None else load_model_record(Path(initial_weights))
    # the user's information about the labels, which are the same, is valid for the new weights too
    codes = {key: value for key, value in replaced.get("info", {}).items() if key == "segment_codes"}
    seen = data.training_geometry([case["image"] for case in [*cohort.training, *unlabeled]])
    demo = {"demo": True} if data.in_demo_cohort(cohort.source) else {}
    # files that name no channels have been taken for those of the weights to train further
    names = list(cohort.channel_names) or begun.get("info", {}).get("channel_names", [])
    channels = {"channel_names": names} if names else {}
    info = {"cohort": cohort.name, **demo, "training_volumes": seen, **channels, **codes}
    # listed labels, MONAI Label's, are class indices, regardless of the existing weights' predictions
    values = replaced.get("label_values", {}) if cohort.listed else cohort.class_values
    record = model_record(**described, info=info, label_values=values)
    if not in_place:
        write_json(path, record)
    return record


def announce_training(cohort: data.Cohort, unlabeled: Sequence[Mapping[str, str]], foundation_model: str) -> None:
    """Log the training data, and omitted parts of the method.

    Args:
        cohort: the opened cohort.
        unlabeled: the unlabelled training cases.
        foundation_model: its name, "none" if the adapter is off.
    """
    if process_rank() != 0:
        return
    logger.info(
        "cohort %s: %d labelled, %d unlabelled, %d validation, %d test cases",
        cohort.name,
        len(cohort.training),
        len(unlabeled),
        len(cohort.validation),
        len(cohort.test),
    )
    unused = 0 if unlabeled else len(cohort.unlabeled)
    if unused:
        cases = "1 unlabelled case is" if unused == 1 else f"{unused} unlabelled cases are"
        logger.info("%s not used, as unlabeled_data is []: training is supervised, on the labelled cases only", cases)
    elif not unlabeled:
        logger.info("no unlabelled cases: training is supervised, on the labelled cases only")
    if not cohort.validation:
        logger.info("no validation cases: the last teacher is saved, none is selected")
    if foundation_model == "none":
        logger.info(
            "the foundation-model adapter (PFA) is off; add configs/pfa.json to --config_file and give "
            "--foundation_weights FILE to turn it on"
        )
