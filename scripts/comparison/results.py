"""Results of finished runs: read from an evaluation, and stored in and read from the record of a plan.

A record is two tables and one JSON file, small enough to be kept beside a document: ``cases.csv`` has the results of
every evaluation, ``runs.csv`` one row per run with its times and counts, ``runs.json`` the shared settings and
machines, to which ``runs.csv`` refers by position. The report made from a record equals the one made from the runs.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vqseg_bundle.common import csv_text, plain_cell, write_json
from vqseg_bundle.handlers.metrics import METRICS, STATUSES, Metric

__all__ = [
    "METRICS",
    "RECORD_FILES",
    "CaseClass",
    "RunResult",
    "cases_csv",
    "csv_number",
    "measured",
    "read_record",
    "read_result",
    "write_record",
]

RECORD_FILES = ("cases.csv", "runs.csv", "runs.json")
_EVALUATED = ["case", "class_index", "class_name", "dice", "status"]
_COUNTS = ("labeled", "unlabeled")
_STAGES = ("training", "evaluating")
_COLUMNS = ["dataset", "method", "seed", *_COUNTS, *(f"{stage}_seconds" for stage in _STAGES)]
_COLUMNS += ["finished", "commit", "inputs", "settings", "machine"]


@dataclass(frozen=True)
class CaseClass:
    """One class of one case.

    Attributes:
        case: name of the case.
        patient: whose case it is.
        class_name: name of the class.
        values: by metric, for those measured; NaN if the class is absent.
        status: "ok", "missed", "hallucinated" or "absent".
    """

    case: str
    patient: str
    class_name: str
    values: Mapping[str, float]
    status: str


@dataclass(frozen=True)
class RunResult:
    """The evaluation of one run.

    Attributes:
        dataset: its name.
        method: its name.
        seed: of the run.
        rows: one row per case and class.
        record: the comparison's record of the run.
    """

    dataset: str
    method: str
    seed: int
    rows: tuple[CaseClass, ...]
    record: Mapping[str, Any]

    @property
    def metrics(self) -> list[str]:
        """The measured metrics; an older evaluation has fewer."""
        return [metric for metric in METRICS if self.rows and all(metric in row.values for row in self.rows)]

    @cached_property
    def classes(self) -> dict[str, dict[str, float]]:
        """By class name and metric, the mean over the cases in which the class is not absent; NaN if there are none."""
        by_class: dict[str, list[CaseClass]] = {}
        for row in self.rows:
            by_class.setdefault(row.class_name, []).append(row)
        return {
            name: {metric: _mean(row.values[metric] for row in rows) for metric in self.metrics}
            for name, rows in by_class.items()
        }

    @cached_property
    def overall(self) -> dict[str, float]:
        """By metric, the mean over foreground classes of the class means; NaN if no class counts."""
        return {metric: _mean(means[metric] for means in self.classes.values()) for metric in self.metrics}

    @property
    def patients(self) -> dict[str, str]:
        """By case, its patient."""
        return {row.case: row.patient for row in self.rows}

    def case_means(self, metric: str) -> dict[str, float]:
        """By case, the mean over its classes that are not absent; cases without such a class are left out."""
        values: dict[str, list[float]] = {}
        for row in self.rows:
            values.setdefault(row.case, []).append(row.values[metric])
        means = {case: _mean(found) for case, found in values.items()}
        return {case: mean for case, mean in means.items() if not math.isnan(mean)}


def measured(results: Iterable[RunResult]) -> list[Metric]:
    """The metrics in any of the results, in order; all metrics without results."""
    found = {metric for result in results for metric in result.metrics}
    return [metric for name, metric in METRICS.items() if name in found or not found]


def read_result(folder: Path, dataset: str, method: str, seed: int, record: Mapping[str, Any]) -> RunResult:
    """Read ``metrics.csv``.

    Raises:
        ValueError: the file does not have an evaluation's form.
    """
    path = folder / "metrics.csv"
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not set(_EVALUATED) <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected the columns {_EVALUATED}, found {reader.fieldnames}; evaluate again.")
        try:
            rows = tuple(_parse_case(line, line["class_name"]) for line in map(_plain, reader))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}; evaluate again.") from error
    return RunResult(dataset, method, seed, rows, record)


def write_record(results: Iterable[RunResult], folder: Path) -> list[Path]:
    """Write the three files into an existing folder.

    Returns:
        the written files.
    """
    results = list(results)
    settings, machines = _distinct(results, "settings"), _distinct(results, "machine")
    texts = {"cases.csv": cases_csv(results), "runs.csv": _runs_csv(results, settings, machines)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    write_json(folder / "runs.json", {"settings": settings, "machines": machines})
    return [folder / name for name in RECORD_FILES]


def read_record(folder: Path) -> list[RunResult]:
    """The results in a record, in the order given to :func:`write_record`.

    Raises:
        ValueError: a file is missing, or does not have the form of :func:`write_record`.
    """
    missing = [name for name in RECORD_FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: expected a record ({', '.join(RECORD_FILES)}), found no {missing[0]}.")
    try:
        common = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
        rows: dict[tuple[str, str, int], list[CaseClass]] = {}
        for line in _lines(folder / "cases.csv"):
            rows.setdefault(_run_of(line), []).append(_parse_case(line, line["class"]))
        return [
            RunResult(*_run_of(line), tuple(rows[_run_of(line)]), _run_record(line, common))
            for line in _lines(folder / "runs.csv")
        ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{folder}: expected the record of a comparison, but: {error!r}; write it again.") from error


def csv_number(value: float) -> str:
    """A number, not rounded; empty if undefined."""
    return "" if math.isnan(value) else repr(value)


def _parse_case(line: Mapping[str, str], class_name: str) -> CaseClass:
    """A row of a table with "case", "status" and some metrics; other columns are ignored."""
    if line["status"] not in STATUSES:
        raise ValueError(f"status: expected one of {', '.join(STATUSES)}, found '{line['status']}'")
    absent = line["status"] == "absent"
    given = [metric for metric in METRICS if metric in line and (absent or line[metric])]
    values = {metric: math.nan if absent else float(line[metric]) for metric in given}
    # evaluations before 0.12 name no patients
    return CaseClass(line["case"], line.get("patient") or line["case"], class_name, values, line["status"])


def _distinct(results: Sequence[RunResult], key: str) -> list[dict[str, Any]]:
    """The distinct values under a key of the runs' records, in order of first use."""
    found: list[dict[str, Any]] = []
    for result in results:
        value = _shared(result.record[key])
        if value not in found:
            found.append(value)
    return found


def _shared(value: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without the seed, which differs between runs."""
    return {key: item for key, item in value.items() if key != "seed"}


def cases_csv(results: Iterable[RunResult]) -> str:
    """One row per run, case and class, as the evaluations wrote them."""
    results = list(results)
    names = [metric.name for metric in measured(results)]
    lines: list[list[object]] = [["dataset", "method", "seed", "case", "patient", "class", *names, "status"]]
    for result in results:
        for row in result.rows:
            values = [csv_number(row.values.get(name, math.nan)) for name in names]
            run = [result.dataset, result.method, result.seed]
            lines.append([*run, row.case, row.patient, row.class_name, *values, row.status])
    return csv_text(lines)


def _runs_csv(results: Sequence[RunResult], settings: list[dict[str, Any]], machines: list[dict[str, Any]]) -> str:
    lines: list[list[object]] = [[*_COLUMNS]]
    for result in results:
        record = result.record
        counts, seconds = [record[name] for name in _COUNTS], [record["seconds"].get(stage, "") for stage in _STAGES]
        made = [record.get("finished", ""), record["commit"] or "", record.get("inputs", "")]
        shared = [settings.index(_shared(record["settings"])), machines.index(_shared(record["machine"]))]
        lines.append([result.dataset, result.method, result.seed, *counts, *seconds, *made, *shared])
    return csv_text(lines)


def _run_record(line: Mapping[str, str], common: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "settings": {**common["settings"][int(line["settings"])], "seed": int(line["seed"])},
        "machine": common["machines"][int(line["machine"])],
        **{name: int(line[name]) for name in _COUNTS},
        "seconds": {stage: float(line[f"{stage}_seconds"]) for stage in _STAGES if line[f"{stage}_seconds"]},
        "finished": line["finished"],
        "commit": line["commit"] or None,
        "inputs": line["inputs"],
    }


def _run_of(line: Mapping[str, str]) -> tuple[str, str, int]:
    return line["dataset"], line["method"], int(line["seed"])


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [_plain(line) for line in csv.DictReader(file)]


def _plain(line: Mapping[str, str]) -> dict[str, str]:
    """The texts as they were before they were written."""
    return {key: plain_cell(cell) if isinstance(cell, str) else cell for key, cell in line.items()}


def _mean(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    counted = [value for value in values if not math.isnan(value)]
    return math.fsum(counted) / len(counted) if counted else math.nan
