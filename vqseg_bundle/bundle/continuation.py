"""Whether a training may go on from weights that lie there: its own, interrupted, or the bundle's, trained further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqseg_bundle import data, networks
from vqseg_bundle.bundle.model_record import check_compatible, check_files_hold, load_model_record, load_weights
from vqseg_bundle.bundle.overrides import exit_cleanly
from vqseg_bundle.handlers import find_resumable, read_checkpoint

__all__ = ["check_continuation", "check_resume"]


def check_continuation(
    output_dir: str,
    resume: bool,
    in_place: bool,
    described: Mapping[str, Mapping[Any, Any]],
    network: networks.VQNetwork,
    cohort: data.Cohort,
    iterations: Sequence[int],
) -> None:
    """Refuse weights that this training cannot go on from; those that it goes on from in place are loaded.

    Args:
        output_dir: where they lie, as ``model.pt`` and ``resume.pt``.
        resume: whether an interrupted training goes on.
        in_place: whether the bundle's own weights are trained further.
        described: see :func:`describe_training`.
        network: takes the weights in place.
        cohort: the opened cohort.
        iterations: length of the training and of a whole epoch.

    Raises:
        SystemExit: the weights are missing, of another network, other labels or preprocessing; of a training that is
            resumed, its length is another or its files hold channels or classes in another order.
    """
    if not (resume or in_place):
        return
    weights = Path(output_dir) / "model.pt"
    if resume:
        exit_cleanly(check_resume, weights.with_name("resume.pt"), *iterations, bool(cohort.validation))
    record = exit_cleanly(load_model_record, weights)
    exit_cleanly(check_compatible, record, **described)
    if resume:
        exit_cleanly(check_files_hold, record, cohort.channel_names, None if cohort.listed else cohort.label_values)
    else:
        # here and not in the engine's first event: the teacher starts as their copy, and misfits are refused in time
        exit_cleanly(load_weights, network, weights)


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
