"""The plan of a training: the data check's facts, the user's keys and the rules joined."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser

from vqseg_bundle import data
from vqseg_bundle.bundle.cohort.cohort_fingerprint import measure_cohort
from vqseg_bundle.bundle.cohort.prepared_scans import check_prepared_scans
from vqseg_bundle.bundle.machine.memory import measure_machine
from vqseg_bundle.bundle.records.model_record import load_model_record
from vqseg_bundle.bundle.settings.clean_exit import exit_cleanly
from vqseg_bundle.bundle.settings.components import check_device, check_given
from vqseg_bundle.bundle.settings.setting_table import check_values
from vqseg_bundle.bundle.training.step_trial import measure_pace
from vqseg_bundle.common import gather_objects, process_count, process_rank, read_json, write_json
from vqseg_bundle.planning import PLANNED_IDS, Fingerprint, Pace, Plan, make_plan

__all__ = ["PlannedTraining", "check_plan_output", "plan_training", "record_plan", "show_plan", "with_planned_values"]

logger = logging.getLogger(__name__)

_REFERENCE = "$@plan."
#: what records of 0.8 and earlier do not say, and what none says of codes at the deepest level
_UNSAID: dict[str, dict[str, Any]] = {
    "preprocessing": {"intensity_window": None, "intensity_statistics": None, "normalize_nonzero": False},
    "network": {"code_level": None},
}
#: what follows from the machine alone, so that another one may go on with the training
_OF_THE_MACHINE = (PLANNED_IDS["cache_rate"], PLANNED_IDS["cache_on_disk"])
_RECORDED = {
    "preprocessing": (
        "spatial_dims",
        "intensity_window",
        "intensity_statistics",
        "normalize_nonzero",
        "spacing",
        "image_size",
        "patch_size",
    ),
    "network": ("strides", "channels", "code_level", "reconstruction_channels"),
}


class PlannedTraining(NamedTuple):
    """A checked cohort and what is planned for it.

    Attributes:
        plan: the values by key.
        fingerprint: what they follow from.
        warnings: the data check's; empty in all processes except the first.
        memory_gb: memory of the device for a training step.
    """

    plan: Plan
    fingerprint: Fingerprint
    warnings: list[str]
    memory_gb: float


def plan_training(
    cohort: data.Cohort,
    in_channels: int,
    data_check: str,
    allow_no_labeled: bool,
    device: str,
    slice_axis: int | str,
    orientation: str | None,
    demo: bool,
    time_budget: float | None,
    plan_file: str | None,
    output_dir: str,
    goes_on: bool,
    initial_weights: str | None,
    parser: ConfigParser,
) -> PlannedTraining:
    """Check a cohort and plan its training; with several processes, the first does, for all.

    Values that the configuration gives, instead of a reference to the plan, win over those in a plan file, and these
    over the rules; ``time_budget`` wins over a plan file's steps. A training that goes on keeps the values recorded
    beside its weights.

    Args:
        cohort: the opened cohort.
        in_channels: channels that each image must have.
        data_check: see :func:`vqseg_bundle.data.check_cohort`.
        allow_no_labeled: see :func:`vqseg_bundle.data.check_cohort`.
        device: the device.
        slice_axis: see :func:`vqseg_bundle.data.cohort_slice_axis`.
        orientation: to which the volumes are brought; None leaves them as stored.
        demo: whether it is the demo cohort.
        time_budget: minutes from the first step to the end, for which a few steps are timed; None, or a given
            ``max_iterations``, lets the time follow.
        plan_file: an earlier ``plan.json``, edited or not, or None.
        output_dir: folder of the weights.
        goes_on: whether the training continues from weights there.
        initial_weights: weights with which it begins instead, whose network and preprocessing it keeps, or None.
        parser: the running configuration's.

    Raises:
        SystemExit: the data, a given value or the plan file is at fault; the message says what.
    """
    exit_cleanly(check_device, device)
    recorded: dict[str, Any] = {}
    if goes_on:
        recorded = exit_cleanly(_recorded_values, Path(output_dir))
    elif initial_weights:
        recorded = exit_cleanly(_values_of_weights, Path(initial_weights))
    given = exit_cleanly(_given_values, parser, plan_file, recorded, time_budget is not None)
    planned = None
    if process_rank() == 0:
        clipped = bool(given.get("intensity_window", (None, ""))[0])
        report = exit_cleanly(data.examine_cohort, cohort, in_channels, data_check, allow_no_labeled, clipped=clipped)
        warnings = exit_cleanly(data.require_sound, report)
        headers = {case.image: case.image_header.header for case in report.cases if case.image_header}
        learnt = {case["image"]: headers[case["image"]] for case in [*cohort.training, *cohort.unlabeled]}
        axis = exit_cleanly(data.headers_slice_axis, learnt, slice_axis, orientation)
        fingerprint = measure_cohort(report.cases, axis, orientation, in_channels, cohort.sparse)
        machine = exit_cleanly(measure_machine, device, parser.get_parsed_content("mixed_precision"), output_dir)
        plan = exit_cleanly(make_plan, fingerprint, machine, given, demo)
        warnings += exit_cleanly(check_prepared_scans, report.cases, fingerprint, plan)
        planned = PlannedTraining(_of_configuration(plan, parser), fingerprint, warnings, machine.memory_gb)
        if time_budget is not None and PLANNED_IDS["max_iterations"] not in given:
            pace = _measure(planned, cohort, parser)
            plan = exit_cleanly(make_plan, fingerprint, machine, given, demo, (time_budget, pace))
            planned = planned._replace(plan=_of_configuration(plan, parser))
    first = gather_objects(planned)[0]
    if first is None:
        raise RuntimeError("the first process has made no plan.")
    return first if process_rank() == 0 else first._replace(warnings=[])


def _measure(planned: PlannedTraining, cohort: data.Cohort, parser: ConfigParser) -> Pace:
    if process_count() > 1:
        raise SystemExit("time_budget: steps are timed in one process only; give max_iterations instead.")
    parser.get_parsed_content("computing")  # the steps are timed with the training's threads
    logger.info("timing a few steps, for time_budget")
    known = {"planned": planned, "mixed_precision": parser.get_parsed_content("mixed_precision")}
    return measure_pace({**with_planned_values(parser.get(), planned.plan), **known}, cohort)


def record_plan(planned: PlannedTraining, output_dir: str, resume: bool) -> None:
    """Log the plan, and write ``plan.json`` and ``fingerprint.json`` unless an interrupted training goes on."""
    if process_rank() != 0:
        return
    _log_plan(planned)
    if resume:
        return
    folder = Path(output_dir)
    write_json(folder / "plan.json", _plan_content(planned.plan))
    write_json(folder / "fingerprint.json", planned.fingerprint.to_json())


def check_plan_output(plan_output: str | None) -> None:
    """Refuse a file for the plan that exists, before the scans are looked at.

    Raises:
        SystemExit: it does.
    """
    if plan_output is not None and Path(plan_output).exists():
        raise SystemExit(f"plan_output {plan_output}: the file exists; give another name.")


def show_plan(planned: PlannedTraining, plan_output: str | None) -> None:
    """Log the data check's warnings and the plan, and write it to a file, if one is named.

    Raises:
        SystemExit: the file cannot be written.
    """
    for warning in planned.warnings:
        logger.warning(warning)
    _log_plan(planned)
    if plan_output is not None:
        exit_cleanly(write_json, Path(plan_output), _plan_content(planned.plan))
        logger.info("wrote %s; train by it with --plan_file %s", plan_output, plan_output)


def _log_plan(planned: PlannedTraining) -> None:
    lines = "\n".join(planned.plan.table())
    needed, there = planned.plan.memory_gb, planned.memory_gb
    memory = f"{needed:.2g} GB for a training step, beside the process and the scans"
    logger.info("plan, of %d scans (%s):\n%s", len(planned.fingerprint.shapes), memory, lines)
    if needed > there:
        logger.warning(
            "a training step needs about %.2g GB, of %.2g GB for it: lower patch_size, labeled_batch_size, "
            "unlabeled_batch_size or network_def#channels, or set activation_checkpointing true.",
            needed,
            there,
        )


def _plan_content(plan: Plan) -> dict[str, Any]:
    return {**plan.to_json(), "memory_gb": {"value": round(plan.memory_gb, 3)}}


def with_planned_values(config: Any, plan: Plan) -> Any:
    """A configuration with the plan's values in place of the references to them."""
    if isinstance(config, Mapping):
        return {key: with_planned_values(value, plan) for key, value in config.items()}
    if isinstance(config, list):
        return [with_planned_values(value, plan) for value in config]
    if isinstance(config, str) and config.startswith(_REFERENCE):
        return getattr(plan, config.removeprefix(_REFERENCE), config)
    return config


def _given_values(
    parser: ConfigParser, plan_file: str | None, recorded: Mapping[str, Any], timed: bool
) -> dict[str, tuple[Any, str]]:
    """Value and origin by id of all that no rule decides on; ``recorded`` beside the weights to go on from."""
    filed = _read_plan_file(Path(plan_file)) if plan_file else {}
    if timed:  # minutes are a key of this training, the file's steps those of the earlier one
        filed.pop(PLANNED_IDS["max_iterations"], None)
    given: dict[str, tuple[Any, str]] = {}
    for id_ in PLANNED_IDS.values():
        written = parser.get(id_)
        if id_ in parser and not (isinstance(written, str) and written.startswith(_REFERENCE)):
            given[id_] = (parser.get_parsed_content(id_), "given")
        elif id_ in filed:
            given[id_] = (filed[id_], f"given in {plan_file}")
        elif id_ in recorded:
            given[id_] = (recorded[id_], "of the training that goes on")
    check_given({id_.rpartition("#")[2]: value for id_, (value, _) in given.items()})
    return given


def _recorded_values(folder: Path) -> dict[str, Any]:
    """Values of the weights in a folder, from ``model.json``, and of their training, from ``plan.json``."""
    weights = folder / "model.pt"
    filed = _read_plan_file(folder / "plan.json") if (folder / "plan.json").is_file() else {}
    found = {id_: value for id_, value in filed.items() if id_ not in _OF_THE_MACHINE}
    return found | (_values_of_weights(weights) if weights.with_suffix(".json").is_file() else {})


def _values_of_weights(weights: Path) -> dict[str, Any]:
    """Values of a network and its preprocessing, from the record beside its weights."""
    record, found = load_model_record(weights), dict[str, Any]()
    for section, names in _RECORDED.items():
        known = {**_UNSAID[section], **record[section]}
        found |= {PLANNED_IDS[name]: known[name] for name in names if name in known}
    return found


def _read_plan_file(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"plan_file {path} cannot be read ({error}); correct it, or leave it out.") from error
    ids = [*PLANNED_IDS.values(), "memory_gb"]
    unknown = [id_ for id_ in content if id_ not in ids] if isinstance(content, dict) else [type(content).__name__]
    if unknown:
        raise ValueError(f"{path}: expected the keys {', '.join(ids)}, found {unknown[0]}.")
    lacking = [id_ for id_, entry in content.items() if not isinstance(entry, dict) or "value" not in entry]
    if lacking:
        raise ValueError(f'{path}: key "{lacking[0]}": expected an object with a "value", as a training writes it.')
    values = {id_: entry["value"] for id_, entry in content.items() if id_ != "memory_gb"}
    if refusals := check_values(values):
        raise ValueError(f"{path}: {refusals[0].removeprefix('--')}")
    return values


def _of_configuration(plan: Plan, parser: ConfigParser) -> Plan:
    """Without decisions on arguments that the configuration's network does not have."""
    decisions: Sequence[Any] = [made for made in plan.decisions if made.id in parser]
    return replace(plan, decisions=tuple(decisions))
