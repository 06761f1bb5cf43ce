"""What a finished run's evaluation wrote, read back."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqseg_bundle.handlers.case_comparison import METRICS, STATUSES

__all__ = ["METRICS", "CaseClass", "RunResult", "read_result"]

_COLUMNS = ["case", "class_index", "class_name", *METRICS, "status"]


@dataclass(frozen=True)
class CaseClass:
    """One class of one case.

    Attributes:
        case: name of the case.
        class_name: name of the class.
        values: by metric; NaN where the class is absent.
        status: "ok", "missed", "hallucinated" or "absent".
    """

    case: str
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
        rows: every class of every case.
        overall: by metric, the mean over foreground classes of the class means; NaN where no class counts.
        classes: by class name and metric, the mean over the cases in which the class is not absent; NaN without any.
        record: what the comparison wrote of the run.
    """

    dataset: str
    method: str
    seed: int
    rows: tuple[CaseClass, ...]
    overall: Mapping[str, float]
    classes: Mapping[str, Mapping[str, float]]
    record: Mapping[str, Any]

    def case_means(self, metric: str) -> dict[str, float]:
        """By case, the mean over its classes that are not absent; cases without such a class are left out."""
        values: dict[str, list[float]] = {}
        for row in self.rows:
            if not math.isnan(row.values[metric]):
                values.setdefault(row.case, []).append(row.values[metric])
        return {case: math.fsum(found) / len(found) for case, found in values.items()}


def read_result(folder: Path, dataset: str, method: str, seed: int, record: Mapping[str, Any]) -> RunResult:
    """Read ``metrics.csv`` and ``summary.json``.

    Args:
        folder: the run's folder.
        dataset: its name.
        method: its name.
        seed: of the run.
        record: what the comparison wrote of the run.

    Raises:
        ValueError: a file is not what an evaluation writes.
    """
    overall, classes = _read_summary(folder / "summary.json")
    return RunResult(dataset, method, seed, _read_rows(folder / "metrics.csv"), overall, classes, record)


def _read_rows(path: Path) -> tuple[CaseClass, ...]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != _COLUMNS:
            raise ValueError(f"{path}: expected the columns {_COLUMNS}, found {reader.fieldnames}; evaluate again.")
        try:
            return tuple(_row(line) for line in reader)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}; evaluate again.") from error


def _row(line: Mapping[str, str]) -> CaseClass:
    if line["status"] not in STATUSES:
        raise ValueError(f"status: expected one of {', '.join(STATUSES)}, found '{line['status']}'")
    absent = line["status"] == "absent"
    values = {metric: math.nan if absent else float(line[metric]) for metric in METRICS}
    return CaseClass(line["case"], line["class_name"], values, line["status"])


def _read_summary(path: Path) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        classes = {entry["name"]: _means(entry) for entry in summary["classes"]}
        return _means(summary["overall"]), classes
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected the summary of an evaluation, but: {error!r}; evaluate again.") from error


def _means(entry: Mapping[str, Any]) -> dict[str, float]:
    means = {metric: entry[metric]["mean"] for metric in METRICS}
    return {metric: math.nan if mean is None else float(mean) for metric, mean in means.items()}
