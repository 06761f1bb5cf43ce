"""The last lines of a command: what was made, how good it is, where to look, and what to type next.

What a training makes and the commands that follow it are also kept in its ``run.json``, under "result" and "next", and
what an evaluation makes in ``evaluation_run.json``.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.engines import Evaluator

from vqseg_bundle import data
from vqseg_bundle.bundle.records.folder_lock import leave_folder
from vqseg_bundle.common import file_digest, path_from_here, process_rank, shell_line, vqseg_words, write_json

__all__ = ["close_evaluation", "close_inference", "close_training"]

logger = logging.getLogger(__name__)

_MOST_COMMANDS = 2


def close_training(
    output_dir: str,
    cohort: data.Cohort,
    validator: Evaluator | None,
    resume: bool,
    in_place: bool,
    parser: ConfigParser,
) -> None:
    """Log what the training made, and the next commands.

    Args:
        output_dir: its folder.
        cohort: the opened cohort.
        validator: the evaluator that selected the weights; None without validation cases.
        resume: whether the training went on with an earlier one.
        in_place: whether the bundle's own weights were trained further, so that no command follows.
        parser: the running configuration's.
    """
    if process_rank() != 0:
        return
    folder = Path(output_dir)
    result: dict[str, Any] = {"weights": str(folder / "model.pt"), "pictures": [str(folder / "progress.png")]}
    score = "of the last step, as there are no validation cases"
    if validator is not None:
        best, epoch = float(validator.state.best_metric), int(validator.state.best_metric_epoch)
        result |= {"best_epoch": epoch, "val_mean_dice": best if math.isfinite(best) else None}
        score = f"best mean Dice on validation {best:.3f}, epoch {epoch}"
    following = [] if in_place else _following(parser, folder, cohort)
    record = folder / ("resumed_run.json" if resume else "run.json")
    taken = _record(record, result, following)
    _close(f"trained{taken}: {result['weights']}, {score}", result["pictures"], following)


def close_evaluation(output_dir: str, checkpoint: str) -> None:
    """Log what the evaluation made, and the next commands; another one may use the folder from then on.

    Args:
        output_dir: its folder.
        checkpoint: the evaluated weights.
    """
    if process_rank() != 0:
        return
    folder = Path(output_dir)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    means = {name: metric["mean"] for name, metric in summary["overall"].items()}
    result = {
        "cases": summary["num_cases"],
        **means,
        "weights_sha256": file_digest(Path(checkpoint)),
        "tables": [str(folder / name) for name in ("metrics.csv", "summary.json")],
        "pictures": [str(folder / "report.html")],
    }
    following = _left(Path(checkpoint).parent, {"evaluate"})
    taken = _record(folder / "evaluation_run.json", result, following)
    scores = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items() if mean is not None)
    leave_folder(folder, "evaluation")
    cases = f"{result['cases']} case{'' if result['cases'] == 1 else 's'}"
    _close(f"evaluated {cases}{taken}: {scores}", result["pictures"], following)


def close_inference(
    output_dir: str, cases: Sequence[Mapping[str, Any]], checkpoint: str, pictures: Sequence[str]
) -> None:
    """Log where the predictions are, and the next commands; another inference may use the folder from then on.

    Args:
        output_dir: folder of the predictions.
        cases: the segmented volumes.
        checkpoint: the weights.
        pictures: files to look at.
    """
    leave_folder(output_dir, "inference")
    run = Path(checkpoint).parent
    following = _left(run, {"segment", *(["evaluate"] if (run / "summary.json").exists() else [])})
    what = f"segmented {len(cases)} volume{'' if len(cases) == 1 else 's'}: {output_dir}"
    _close(what, pictures, following)


def _close(made: str, pictures: Sequence[str], following: Sequence[str]) -> None:
    logger.info(made)
    if pictures:
        logger.info("to look at: %s", ", ".join(pictures))
    for command in following[:_MOST_COMMANDS]:
        logger.info("next: %s", command)


def _following(parser: ConfigParser, folder: Path, cohort: data.Cohort) -> list[str]:
    """The commands after a training, with its paths."""
    vqseg = vqseg_words()
    given = [word for key in ("dataset_dir", "datalist") if parser.get(key) for word in (f"--{key}", str(parser[key]))]
    uneven = parser.get("uneven_slices", "refuse")
    allowed = [] if uneven == "refuse" else ["--uneven_slices", str(uneven)]
    outside = ["--allow_outside_files", "true"] if parser.get("allow_outside_files") else []
    output = ["--output_dir", str(folder), *allowed]
    commands = []
    for split in ("test", "validation"):
        if any("label" in case for case in getattr(cohort, split)):
            chosen = [] if split == "test" else ["--evaluation_split", split]
            commands.append([*vqseg, "evaluate", *given, *output, *outside, *chosen])
            break
    cases = [*cohort.test, *cohort.unlabeled, *cohort.validation, *cohort.training]
    place = next(filter(None, (data.place_to_segment(case["image"]) for case in cases)), None)
    if place:
        commands.append([*vqseg, "segment", path_from_here(place), *output])
    named = folder if folder.name.strip(".") else folder.resolve()  # "." and ".." have no name to add to
    commands.append([*vqseg, "bundle", "--run", str(folder), "--output", f"{named}_bundle"])
    return [shell_line(command) for command in commands]


def _left(run: Path, done: set[str]) -> list[str]:
    """The commands in a training's record that are not done yet; none if the weights are no training's."""
    for name in ("resumed_run.json", "run.json"):  # only that of the process that finished has them
        try:
            record = json.loads((run / name).read_text(encoding="utf-8"))
            commands, there = record["next"], record.get("directory", str(Path.cwd()))
        except (OSError, ValueError, KeyError):
            continue
        # the run has come from elsewhere
        if not isinstance(there, str) or not os.path.isdir(there):  # noqa: PTH112 Path's raises where it may not look
            return []
        enter = "" if Path(there) == Path.cwd() else f"{shell_line(['cd', there])} && "
        return [f"{enter}{command}" for command in commands if not done & set(command.split()[:4])]
    return []


def _record(path: Path, result: Mapping[str, Any], following: Sequence[str]) -> str:
    """Add the result to a run's record; return how long the run took, as text."""
    record = json.loads(path.read_text(encoding="utf-8"))
    seconds = (datetime.now().astimezone() - datetime.fromisoformat(record["started"])).total_seconds()
    ended = {"seconds": round(seconds), "result": dict(result), "next": list(following)}
    write_json(path, {**record, **ended, "directory": str(Path.cwd())})  # where the commands' paths are relative to
    return f" in {seconds / 60:.0f} min" if seconds >= 100 else f" in {seconds:.0f} s"
