"""What a finished run's evaluation wrote, read back."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vqseg_bundle.handlers.case_comparison import METRICS, STATUSES

__all__ = ["METRICS", "CaseClass", "RunResult", "parse_case", "read_result"]

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
        record: what the comparison wrote of the run.
    """

    dataset: str
    method: str
    seed: int
    rows: tuple[CaseClass, ...]
    record: Mapping[str, Any]

    @cached_property
    def classes(self) -> dict[str, dict[str, float]]:
        """By class name and metric, the mean over the cases in which the class is not absent; NaN without any."""
        by_class: dict[str, list[CaseClass]] = {}
        for row in self.rows:
            by_class.setdefault(row.class_name, []).append(row)
        return {
            name: {metric: _mean(row.values[metric] for row in rows) for metric in METRICS}
            for name, rows in by_class.items()
        }

    @cached_property
    def overall(self) -> dict[str, float]:
        """By metric, the mean over foreground classes of the class means; NaN where no class counts."""
        return {metric: _mean(means[metric] for means in self.classes.values()) for metric in METRICS}

    def case_means(self, metric: str) -> dict[str, float]:
        """By case, the mean over its classes that are not absent; cases without such a class are left out."""
        values: dict[str, list[float]] = {}
        for row in self.rows:
            values.setdefault(row.case, []).append(row.values[metric])
        means = {case: _mean(found) for case, found in values.items()}
        return {case: mean for case, mean in means.items() if not math.isnan(mean)}


def read_result(folder: Path, dataset: str, method: str, seed: int, record: Mapping[str, Any]) -> RunResult:
    """Read ``metrics.csv``.

    Args:
        folder: the run's folder.
        dataset: its name.
        method: its name.
        seed: of the run.
        record: what the comparison wrote of the run.

    Raises:
        ValueError: the file is not what an evaluation writes.
    """
    return RunResult(dataset, method, seed, _read_rows(folder / "metrics.csv"), record)


def parse_case(line: Mapping[str, str], class_name: str) -> CaseClass:
    """A line of a table of cases, which has the columns "case" and "status" and one for each metric.

    Raises:
        ValueError: an unknown status, or a metric that is no number.
    """
    if line["status"] not in STATUSES:
        raise ValueError(f"status: expected one of {', '.join(STATUSES)}, found '{line['status']}'")
    absent = line["status"] == "absent"
    values = {metric: math.nan if absent else float(line[metric]) for metric in METRICS}
    return CaseClass(line["case"], class_name, values, line["status"])


def _read_rows(path: Path) -> tuple[CaseClass, ...]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != _COLUMNS:
            raise ValueError(f"{path}: expected the columns {_COLUMNS}, found {reader.fieldnames}; evaluate again.")
        try:
            return tuple(parse_case(line, line["class_name"]) for line in reader)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}; evaluate again.") from error


def _mean(values: Iterable[float]) -> float:
    """Mean of what is not NaN; NaN without any."""
    counted = [value for value in values if not math.isnan(value)]
    return math.fsum(counted) / len(counted) if counted else math.nan
