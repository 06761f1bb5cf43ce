"""The output folder of a finished training, read and checked."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch

from vqseg_bundle.bundle import build_deployed_network, load_model_record, load_weights
from vqseg_bundle.common import file_digest
from vqseg_bundle.networks import VQNetwork

__all__ = ["DeploymentError", "FinishedRun", "load_network", "open_run"]

_CASES = re.compile(r"cohort (.+): (\d+) labelled, (\d+) unlabelled, (\d+) validation, (\d+) test cases")
_SPLITS = ("labelled", "unlabelled", "validation", "test")
_BROKEN = (RuntimeError, EOFError, OSError, AttributeError, TypeError, KeyError, UnpicklingError)


class DeploymentError(ValueError):
    """Something that cannot be deployed; the message says what, and what to do."""


class FinishedRun(NamedTuple):
    """A training's output folder.

    Attributes:
        folder: the folder.
        record: ``model.json``.
        config: ``config.json``, or ``resumed_config.json`` of a training that went on: the configuration as run.
        run: ``run.json``.
        cases: number of cases by split; empty if the log does not say.
        metrics: validation Dice and, if the weights were evaluated into the same folder, the evaluation's means.
    """

    folder: Path
    record: dict[str, Any]
    config: dict[str, Any]
    run: dict[str, Any]
    cases: dict[str, int]
    metrics: dict[str, Any]


def open_run(folder: Path) -> FinishedRun:
    """Read a run and check that its weights load and its training was completed.

    Args:
        folder: the ``output_dir`` of a training.

    Raises:
        DeploymentError: a file is missing or damaged, the weights do not fit their record, or the training stopped
            early.
    """
    if not folder.is_dir():
        raise DeploymentError(f"--run {folder} is not a folder: name the output_dir of a finished training.")
    if not (folder / "model.pt").is_file():
        raise DeploymentError(f"--run {folder} holds no model.pt: name the output_dir of a finished training.")
    config, run = (_read_json(folder / name) for name in ("config.json", "run.json"))
    if (folder / "resumed_config.json").is_file():  # the training went on, perhaps for longer
        config = {**_read_json(folder / "resumed_config.json"), "resume": False, "resume_changed": False}
    load_network(folder / "model.pt")
    record = load_model_record(folder / "model.pt")
    _check_finished(folder / "resume.pt")
    metrics = {**_validation(folder / "progress.csv"), **_evaluation(folder, run)}
    return FinishedRun(folder, record, config, run, _count_cases(folder / "training.log"), metrics)


def load_network(checkpoint: Path) -> VQNetwork:
    """The deployed network with its weights.

    Args:
        checkpoint: ``model.pt``, with ``model.json`` beside it.

    Raises:
        DeploymentError: the weights have no usable record or do not fit it.
    """
    try:
        network = build_deployed_network({**load_model_record(checkpoint), "checkpoint": str(checkpoint)})
        load_weights(network, checkpoint)
    except (SystemExit, ValueError, FileNotFoundError) as error:
        raise DeploymentError(str(error)) from error
    return network


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DeploymentError(f"{path} not found: a training writes it; name its whole output_dir.") from error
    except ValueError as error:
        raise DeploymentError(f"{path} is not valid JSON ({error}); copy it again.") from error
    if not isinstance(content, dict):
        raise DeploymentError(f"{path} must hold a JSON object, found {type(content).__name__}.")
    return content


def _check_finished(path: Path) -> None:
    if not path.is_file():
        return
    try:
        engine = torch.load(path, map_location="cpu", weights_only=True)["engine"]
        done, total = int(engine["iteration"]), int(engine["total_iterations"])
    except _BROKEN as error:
        raise DeploymentError(f"{path}: not what a training writes to go on from ({error}).") from error
    if done < total:
        raise DeploymentError(
            f"{path.parent} holds a training that stopped after iteration {done} of {total}: let it come to its end "
            "with the same command and --resume true. To bundle its weights as they are, put resume.pt elsewhere."
        )


def _count_cases(log: Path) -> dict[str, int]:
    if not log.is_file():
        return {}
    found = _CASES.findall(log.read_text(encoding="utf-8", errors="replace"))
    return dict(zip(_SPLITS, map(int, found[-1][1:]), strict=True)) if found else {}


def _validation(table: Path) -> dict[str, Any]:
    """The best validation Dice, which is that of the saved weights."""
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8") as file:
        found = [float(row["val_mean_dice"]) for row in csv.DictReader(file) if row.get("val_mean_dice")]
    return {"validation": {"dice": round(max(found), 4)}} if found else {}


def _evaluation(folder: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """Means of the evaluation beside the weights, if it was of these very weights as they are used, on their cohort."""
    if not (folder / "summary.json").is_file() or not (folder / "evaluation_config.json").is_file():
        return {}
    config, summary = _read_json(folder / "evaluation_config.json"), _read_json(folder / "summary.json")
    record = _read_json(folder / "evaluation_run.json")
    changed = config.get("checkpoint") or config.get("mirror_axes") or config.get("largest_component") is not None
    if changed or record.get("data_digest") != run.get("data_digest"):
        return {}
    # a training that went on has other weights; evaluations before 0.11.1 do not say theirs
    weights = record.get("result", {}).get("weights_sha256")
    if weights is not None and weights != file_digest(folder / "model.pt"):
        return {}
    means = {name: entry["mean"] for name, entry in summary["overall"].items() if entry["mean"] is not None}
    rounded = {name: round(mean, 4) for name, mean in means.items()}
    return {str(config["evaluation_split"]): {**rounded, "cases": summary["num_cases"]}}
