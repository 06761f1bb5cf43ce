"""Using trained weights: the record beside them determines network and preprocessing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from vqseg_bundle import data, networks
from vqseg_bundle.bundle.cohort.run_geometry import warn_of_geometry
from vqseg_bundle.bundle.deployed.ensemble import split_checkpoints
from vqseg_bundle.bundle.deployed.largest_components import chosen_components
from vqseg_bundle.bundle.records.folder_lock import check_unused, use_folder
from vqseg_bundle.bundle.records.found_weights import find_checkpoint
from vqseg_bundle.bundle.records.learnt_patients import warn_of_learnt
from vqseg_bundle.bundle.records.log_file import log_to_file
from vqseg_bundle.bundle.records.model_record import (
    check_compatible,
    check_files_hold,
    load_model_record,
    load_weights,
)
from vqseg_bundle.bundle.records.moved_files import EVALUATION_OUTPUTS, named_inputs
from vqseg_bundle.bundle.records.run_record import check_writable, put_aside, recorded_digest, write_run_record
from vqseg_bundle.bundle.settings.clean_exit import exit_cleanly
from vqseg_bundle.bundle.settings.components import check_device, check_recorded
from vqseg_bundle.bundle.settings.named_sides import mirrored_copies
from vqseg_bundle.bundle.settings.running_workflow import running_parser
from vqseg_bundle.common import permission_text, wait_for_all

__all__ = [
    "build_deployed_network",
    "check_demo_weights",
    "check_weights",
    "open_model_record",
    "start_evaluation",
]

logger = logging.getLogger(__name__)


def open_model_record(
    checkpoint: str | None,
    output_dir: str | None,
    bundle_root: str,
    default: Mapping[str, Any] | None = None,
    orientation: str | None = None,
    own_training: bool = False,
) -> dict[str, Any]:
    """The record of the weights to use, with their path under "checkpoint", and "chosen": whether the user named them.

    Args:
        checkpoint: the requested weights, or None.
        output_dir: a run's folder, or None.
        bundle_root: the bundle's folder.
        default: record of an untrained network, used if no weights are found (for tools that only inspect the network);
            its "checkpoint" is None, and "missing" says why. None ends with that message instead.
        orientation: orientation of the training's volumes, such as "RAS", if the record lacks it.
        own_training: see :func:`~vqseg_bundle.bundle.find_checkpoint`.

    Returns:
        see :func:`~vqseg_bundle.bundle.load_model_record`.

    Raises:
        SystemExit: there are no weights, or no usable record of them; or the orientation is invalid, or not the
            record's.
    """
    exit_cleanly(data.check_orientation, orientation)
    try:
        path = find_checkpoint(split_checkpoints(checkpoint)[0], output_dir, bundle_root, own_training)
    except FileNotFoundError as error:
        if default is None or checkpoint is not None:
            raise SystemExit(str(error)) from error
        labels = {int(index): name for index, name in default["labels"].items()}
        return {**default, "labels": labels, "checkpoint": None, "missing": str(error)}
    except PermissionError as error:
        raise SystemExit(permission_text(error)) from error
    record = exit_cleanly(load_model_record, path)
    # records of 0.2.0 and earlier lack the first key, those of 0.6 and earlier the second
    preprocessing = {"intensity_window": None, "orientation": None, **record["preprocessing"]}
    exit_cleanly(check_recorded, {**record, "preprocessing": preprocessing}, path.with_suffix(".json"))
    preprocessing["orientation"] = exit_cleanly(_settle_orientation, preprocessing["orientation"], orientation, path)
    exit_cleanly(chosen_components, record, path)  # before the first volume
    return {
        **record,
        "preprocessing": preprocessing,
        "checkpoint": str(path),
        "chosen": checkpoint is not None,
    }


def build_deployed_network(record: Mapping[str, Any], dropout: float = 0.0) -> networks.VQNetwork:
    """The network in a record, without its image decoder and with random weights.

    Args:
        record: see :func:`open_model_record`.
        dropout: dropout rate; does not affect the weights.

    Raises:
        SystemExit: the record does not describe a network.
    """
    arguments = {**record["network"], "reconstruction": False, "dropout": dropout}
    try:
        return networks.build_network(arguments)
    except Exception as error:  # whatever senseless sizes lead to
        raise SystemExit(f"model.json of {record['checkpoint']}, key 'network': {error}") from error


def start_evaluation(
    device: str,
    output_dir: str,
    cohort: data.Cohort,
    split: str,
    data_check: str,
    record: Mapping[str, Any],
    network: networks.VQNetwork,
    preprocessing: Mapping[str, Any],
    predictions: str,
    orientation: str | None = None,
    write: bool = True,
    parser: ConfigParser | None = None,
    mirror_axes: Sequence[int] = (),
) -> None:
    """Check cohort, weights and output folder before the first case, and record the run.

    With several processes, one checks the cohort and writes, and the others wait.

    Args:
        device: the device.
        output_dir: folder of the metrics.
        cohort: the opened cohort.
        split: "validation" or "test".
        data_check: "full" or "headers".
        record: of the weights.
        network: receives the weights.
        preprocessing: this evaluation's; must be the same as in training.
        predictions: folder of the predictions, see :func:`~vqseg_bundle.bundle.records.run_record.prediction_folder`.
        orientation: to which the volumes are brought; None leaves them as stored.
        write: whether this process checks the cohort and writes (rank 0).
        parser: of the running configuration; None looks for it.
        mirror_axes: along which mirrored copies are averaged.

    Raises:
        SystemExit: the input is at fault, or another evaluation is writing there; the message says what and where.
    """
    exit_cleanly(check_device, device)
    exit_cleanly(check_writable, output_dir)
    exit_cleanly(check_unused, output_dir, "evaluation")
    exit_cleanly(check_weights, network, record)
    exit_cleanly(check_demo_weights, record, [cohort.source])
    exit_cleanly(check_compatible, record, labels=cohort.labels, preprocessing=preprocessing)
    exit_cleanly(check_files_hold, record, cohort.channel_names)
    if write:
        in_channels = preprocessing["in_channels"]
        clipped = bool(preprocessing["intensity_window"])
        found = exit_cleanly(data.check_cohort, cohort, in_channels, data_check, True, split, clipped=clipped)
        exit_cleanly(use_folder, output_dir, "evaluation")
        own = (Path(predictions).name,) if Path(predictions).parent == Path(output_dir) else ()
        inputs = named_inputs(running_parser(parser))
        exit_cleanly(put_aside, output_dir, (*EVALUATION_OUTPUTS, *own), inputs=inputs)
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        log_to_file(Path(output_dir) / "evaluation.log")
        further = split_checkpoints(running_parser(parser).get("checkpoint"))[1:]
        weights = [path for path in (record["checkpoint"], *further) if path]
        learnt = [text for path in weights for text in warn_of_learnt(getattr(cohort, split), path)]
        for warning in [*found, *learnt, *mirrored_copies(cohort.labels.values(), mirror_axes)]:
            logger.warning(warning)
        warn_of_geometry([case for case in getattr(cohort, split) if "label" in case], record, orientation)
        config = running_parser(parser).get()
        digest = data.data_digest(cohort, known=recorded_digest(output_dir))
        write_run_record(output_dir, config, digest, sys.argv, prefix="evaluation_")
    wait_for_all()


def _settle_orientation(recorded: str | None, asked: str | None, path: Path) -> str | None:
    try:
        data.check_orientation(recorded)
    except ValueError as error:
        raise ValueError(f"{path.with_suffix('.json')}, under 'preprocessing': {error}") from error
    if recorded is not None and asked not in (None, recorded):
        raise ValueError(
            f"orientation: {path} was trained on volumes brought to {recorded}, as its model.json says, got {asked}. "
            "Leave the key out: volumes of any orientation are brought to that and predictions back to their own."
        )
    return recorded or asked


def check_demo_weights(record: Mapping[str, Any], places: Sequence[str]) -> None:
    """Refuse the demo's weights for other data, unless the user names them.

    Args:
        record: of the weights.
        places: volumes or a datalist.

    Raises:
        ValueError: one of the places is not the demo cohort's.
    """
    if record["chosen"] or not record["info"].get("demo"):
        return
    foreign = next((place for place in places if not data.in_demo_cohort(place)), None)
    if foreign is not None:
        raise ValueError(
            f"{record['checkpoint']}: these weights, as output_dir has no model.pt, know only the synthetic volumes "
            f"of the demo ({', '.join(list(record['labels'].values())[1:])}), and {foreign} is none of them. Name your "
            "own: --output_dir OUT, or --checkpoint OUT/model.pt, OUT being the output_dir of a training."
        )


def check_weights(network: networks.VQNetwork, record: Mapping[str, Any]) -> None:
    """Load the weights here, since the engine would be too late to refuse them with a message; log their warning."""
    load_weights(network, record["checkpoint"])
    if "warning" in record["info"]:
        logger.warning("%s: %s", record["checkpoint"], record["info"]["warning"])
