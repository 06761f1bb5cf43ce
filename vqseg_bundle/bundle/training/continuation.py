"""Whether a training may continue from existing weights: its own, interrupted, or the bundle's, trained further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqseg_bundle import data, networks
from vqseg_bundle.bundle.records.model_record import check_compatible, check_files_hold, load_model_record, load_weights
from vqseg_bundle.bundle.settings.clean_exit import exit_cleanly
from vqseg_bundle.common import process_count
from vqseg_bundle.handlers import find_resumable, former_checkpoint, read_checkpoint

__all__ = ["check_continuation", "check_resume"]


def check_continuation(
    output_dir: str,
    resume: bool,
    in_place: bool,
    described: Mapping[str, Mapping[Any, Any]],
    network: networks.VQNetwork,
    cohort: data.Cohort,
    iterations: Sequence[int],
    another_length: bool = False,
    initial_weights: str | None = None,
    validates: bool | None = None,
) -> None:
    """Refuse weights from which this training cannot continue; load those with which it begins, in place or given.

    Args:
        output_dir: folder of ``model.pt`` and ``resume.pt``.
        resume: whether to resume an interrupted training.
        in_place: whether the bundle's own weights are trained further.
        described: see :func:`describe_training`.
        network: receives the weights in place.
        cohort: the opened cohort.
        iterations: length of the training and of a complete epoch.
        another_length: see :func:`check_resume`.
        initial_weights: weights of an earlier training with which a new one begins, unless it continues; or None.
        validates: whether ``model.pt`` is written by validations, of which the last ends the last epoch; None, in
            configurations of 0.11 and before: if there are validation cases.

    Raises:
        SystemExit: the weights are missing, or of another network, other labels or preprocessing; or the resumed
            training has another length, or its files have channels or classes in another order.
    """
    if not (resume or in_place or initial_weights):
        return
    begins = initial_weights if not (resume or in_place) else None
    weights = Path(begins) if begins else Path(output_dir) / "model.pt"
    if resume:
        validates = bool(cohort.validation) if validates is None else validates
        exit_cleanly(check_resume, weights.with_name("resume.pt"), *iterations, validates, another_length)
    record = exit_cleanly(load_model_record, weights)
    exit_cleanly(check_compatible, record, **described)
    if resume:
        exit_cleanly(check_files_hold, record, cohort.channel_names, None if cohort.listed else cohort.class_values)
    else:
        exit_cleanly(check_files_hold, record, cohort.channel_names)
        # here, not in the engine's first event: the teacher starts as their copy, and mismatches are refused in time
        exit_cleanly(load_weights, network, weights)


def check_resume(
    path: Path, total_iterations: int, iterations_per_epoch: int, validates: bool, another_length: bool = False
) -> None:
    """Refuse to resume a training of another length, whose schedules would not fit, or one whose weights are lost.

    Args:
        path: the resume checkpoint.
        total_iterations: length of this training.
        iterations_per_epoch: iterations of a complete epoch of this training.
        validates: see :func:`check_continuation`.
        another_length: accept a training that has been shorter or longer, but not one that is beyond this one's end.

    Raises:
        ValueError: the checkpoint is missing, unusable, of another length or by another number of processes; or it is
            of a finished training whose ``model.pt`` is unusable and would not be written again; or a file that the
            training writes is a folder.
    """
    for written in (path, former_checkpoint(path), path.with_name("model.pt")):
        if written.is_dir():
            raise ValueError(
                f"resume: {written}: expected a file of weights, found a folder, in whose place nothing can be saved. "
                "Move it away; the training then goes on from what else is there."
            )
    found_path, checkpoint, _ = find_resumable(path)
    engine = checkpoint["engine"]
    found = (engine["total_iterations"], engine["epoch_length"])
    processes = engine.get("processes", process_count())  # unknown up to version 0.11
    if processes != process_count():
        raise ValueError(
            f"resume: {found_path} is of a training by {processes} processes, this one has {process_count()} and would "
            f"draw other images and average other batches. Start {processes}."
        )
    accepted = another_length and found[1] == iterations_per_epoch and engine["iteration"] <= total_iterations
    if not accepted and found != (total_iterations, iterations_per_epoch):
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
