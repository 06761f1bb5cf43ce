"""The results of an evaluation as files: ``metrics.csv``, one row per case and class, and ``summary.json``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqseg_bundle.common import write_text
from vqseg_bundle.handlers.metrics import METRICS, STATUSES, ClassMetrics

__all__ = ["format_table", "mean_over_classes", "summarize", "write_report"]


def write_report(
    output_dir: str | Path, cases: Mapping[str, Sequence[ClassMetrics]], labels: Mapping[int, str]
) -> dict[str, Any]:
    """Write ``metrics.csv`` and ``summary.json``, each in one step, and return the latter's content.

    Rows are sorted by case name; an absent structure's numbers are empty. ``cases``: name to the metrics of each
    foreground class.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarize(cases.values(), labels)
    write_text(folder / "metrics.csv", _to_csv(cases, labels))
    write_text(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return summary


def summarize(cases: Iterable[Sequence[ClassMetrics]], labels: Mapping[int, str]) -> dict[str, Any]:
    """Aggregate the metrics of all cases, given for every foreground class; see docs/summary.schema.json.

    For each class, ``mean``, ``std`` (of a sample, n - 1) and ``n`` of each metric over the cases where it is not
    absent. Overall, ``mean`` is the mean over foreground classes of the class means, ``std`` that of the cases' own
    means over classes, ``n`` the number of cases with a class that counts. What is undefined is None.
    """
    table = [list(case) for case in cases]
    classes = []
    for position, (index, name) in enumerate(sorted(labels.items())[1:]):
        rows = [case[position] for case in table]
        entry: dict[str, Any] = {"index": index, "name": name}
        entry.update({metric: _statistics([row.values[metric] for row in rows]) for metric in METRICS})
        classes.append({**entry, "status_counts": _count(rows)})
    overall = {}
    for metric in METRICS:
        per_case = [_mean([row.values[metric] for row in case]) for case in table]
        mean = mean_over_classes([[row.values[metric] for row in case] for case in table])
        overall[metric] = {**_statistics(per_case), "mean": mean}
    return {
        "schema_version": 1,
        "num_cases": len(table),
        "status_counts": _count([row for case in table for row in case]),
        "overall": overall,
        "classes": classes,
    }


def mean_over_classes(table: Sequence[Sequence[float]]) -> float | None:
    """The mean of the classes' means over cases (a row per case, NaN where a class does not count), else None."""
    means = [_mean(column) for column in zip(*table, strict=True)]
    return None if all(map(math.isnan, means)) else _mean(means)


def format_table(summary: Mapping[str, Any]) -> str:
    """Format a summary as text: one line per class and one for all, mean +- standard deviation."""
    width = max(len("all classes"), *(len(entry["name"]) for entry in summary["classes"]))
    lines = [f"{'':{width}}" + "".join(f"{metric:>18}" for metric in METRICS) + "".join(f"{s:>14}" for s in STATUSES)]
    rows = [(entry["name"], entry, entry["status_counts"]) for entry in summary["classes"]]
    for name, entry, counts in [*rows, ("all classes", summary["overall"], summary["status_counts"])]:
        cells = "".join(f"{_to_cell(entry[metric]):>18}" for metric in METRICS)
        lines.append(f"{name:{width}}{cells}" + "".join(f"{counts[status]:>14}" for status in STATUSES))
    return "\n".join(lines)


def _count(rows: Iterable[ClassMetrics]) -> dict[str, int]:
    found = Counter(row.status for row in rows)
    return {status: found[status] for status in STATUSES}


def _mean(values: Sequence[float]) -> float:
    counted = [value for value in values if not math.isnan(value)]
    return float(np.mean(counted)) if counted else math.nan


def _statistics(values: Sequence[float]) -> dict[str, float | int | None]:
    counted = [value for value in values if not math.isnan(value)]
    return {
        "mean": float(np.mean(counted)) if counted else None,
        "std": float(np.std(counted, ddof=1)) if len(counted) > 1 else None,
        "n": len(counted),
    }


def _to_csv(cases: Mapping[str, Sequence[ClassMetrics]], labels: Mapping[int, str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "class_index", "class_name", *METRICS, "status"])
    for name in sorted(cases):
        for row in cases[name]:
            values = [row.values[metric] for metric in METRICS]
            numbers = ["" if math.isnan(value) else f"{value:.6f}" for value in values]
            writer.writerow([name, row.class_index, labels[row.class_index], *numbers, row.status])
    return text.getvalue()


def _to_cell(statistics: Mapping[str, Any]) -> str:
    mean, std = statistics["mean"], statistics["std"]
    if mean is None:
        return "-"
    return f"{mean:.3f}" if std is None else f"{mean:.3f} +- {std:.3f}"
