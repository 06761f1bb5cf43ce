"""Evaluation of whole cases, on the images' own grid: Ignite handlers that measure, gather and write.

The results are ``metrics.csv``, one row per case and class, and ``summary.json``.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.handlers import from_engine
from monai.utils import CommonKeys

from vqseg_bundle.common import csv_text, gather_objects, process_rank, write_text
from vqseg_bundle.handlers.calibration import describe_calibration, fill_bins
from vqseg_bundle.handlers.metrics import METRICS, STATUSES, ClassMetrics, compute_case_metrics

__all__ = [
    "CaseMetrics",
    "ClassMetrics",
    "compute_case_metrics",
    "format_table",
    "identify_case",
    "mean_over_classes",
    "summarize",
    "write_report",
]
logger = logging.getLogger(__name__)


def write_report(
    output_dir: str | Path,
    cases: Mapping[str, Sequence[ClassMetrics]],
    patients: Mapping[str, str],
    labels: Mapping[int, str],
    calibration: np.ndarray | None = None,
) -> dict[str, Any]:
    """Write ``metrics.csv`` and ``summary.json``, each atomically, and return the latter's content.

    Rows are sorted by case name; an absent structure's numbers are empty. ``cases``: name to the metrics of each
    foreground class; ``patients``: name to patient; ``calibration``: bins of confidence, see
    :func:`~vqseg_bundle.handlers.calibration.fill_bins`.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarize(cases.values(), labels)
    if calibration is not None:
        summary["calibration"] = describe_calibration(calibration)
    write_text(folder / "metrics.csv", _to_csv(cases, patients, labels))
    write_text(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return summary


def summarize(cases: Iterable[Sequence[ClassMetrics]], labels: Mapping[int, str]) -> dict[str, Any]:
    """Aggregate the metrics of all cases, given for every foreground class; see docs/summary.schema.json.

    For each class, ``mean``, ``std`` (of a sample, n - 1) and ``n`` of each metric over the cases in which it is not
    absent. Overall, ``mean`` is the mean over foreground classes of the class means, ``std`` that of the cases' means
    over classes, ``n`` the number of cases with a class that counts. Undefined values are None.
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
    """The mean of the classes' means over cases (a row per case, NaN if a class does not count), or None."""
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


def _to_csv(cases: Mapping[str, Sequence[ClassMetrics]], patients: Mapping[str, str], labels: Mapping[int, str]) -> str:
    rows: list[list[object]] = [["case", "patient", "class_index", "class_name", *METRICS, "status"]]
    for name in sorted(cases):
        for row in cases[name]:
            values = [row.values[metric] for metric in METRICS]
            numbers = ["" if math.isnan(value) else f"{value:.6f}" for value in values]
            rows.append([name, patients[name], row.class_index, labels[row.class_index], *numbers, row.status])
    return csv_text(rows)


def _to_cell(statistics: Mapping[str, Any]) -> str:
    mean, std = statistics["mean"], statistics["std"]
    if mean is None:
        return "-"
    return f"{mean:.3f}" if std is None else f"{mean:.3f} +- {std:.3f}"


class _Case(NamedTuple):
    name: str
    source: str
    patient: str
    classes: list[ClassMetrics]
    bins: np.ndarray | None


class CaseMetrics:
    """Ignite handler that writes ``metrics.csv`` and ``summary.json`` at the end of an evaluation.

    It reads the decollated output of a MONAI evaluator after its postprocessing: the prediction inverted to the image's
    grid and the label as stored, both ``(1, *S)`` MetaTensors of class indices. The case's name is
    ``engine.state.batch[i]["case"]``, otherwise the image's file name. From the item "confidence", if there is one, the
    calibration is found. With several processes, the first one writes the
    rows of all; a case given to two processes counts once.

    Args:
        output_dir: the folder to write to, created if missing.
        labels: class index to name, 0 (background) to the last without a gap.
        output_transform: from ``engine.state.output`` to two lists, predictions and labels. Defaults to the items
            "pred" and "label" of each case.

    Attributes:
        results: case name to the metrics of its classes in the last evaluation; empty except on the first process.
        patients: case name to patient, ``engine.state.batch[i]["patient"]``, otherwise the case's own name; likewise.
        calibration: the voxels of all cases by confidence, see :func:`~vqseg_bundle.handlers.calibration.fill_bins`;
            None without confidences, and except on the first process.

    Raises:
        ValueError: ``labels`` has a gap or no foreground class.
    """

    def __init__(
        self,
        output_dir: str | Path,
        labels: Mapping[int, str],
        output_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if len(labels) < 2 or sorted(labels) != list(range(len(labels))):
            raise ValueError(f"labels must name the classes 0, 1, ... without a gap, at least two, got {dict(labels)}.")
        self.output_dir = Path(output_dir)
        self.labels = dict(labels)
        self.output_transform = output_transform or from_engine([CommonKeys.PRED, CommonKeys.LABEL])
        self.results: dict[str, list[ClassMetrics]] = {}
        self.patients: dict[str, str] = {}
        self.calibration: np.ndarray | None = None
        self._cases: dict[str, _Case] = {}

    def attach(self, engine: Engine) -> None:
        """Register the handler with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _reset(self, engine: Engine) -> None:
        self._cases = {}
        self.results, self.patients, self.calibration = {}, {}, None

    def _update(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        if not isinstance(batch, list):
            raise ValueError(f"CaseMetrics needs the batch as a list of cases (decollate=True), got {type(batch)}.")
        preds, labels = self.output_transform(engine.state.output)
        output: Any = engine.state.output
        for item, pred, label, found in zip(batch, preds, labels, output, strict=True):
            name, source = identify_case(item)
            confidence = found.get("confidence")
            try:
                metrics = compute_case_metrics(pred, label, len(self.labels), _spacing(pred, label))
            except ValueError as error:
                raise ValueError(f"case '{name}': {error}") from error
            bins = None if confidence is None else fill_bins(confidence, label, len(self.labels))
            _add(self._cases, _Case(name, source, str(item.get("patient") or name), metrics, bins), repeatable=False)

    def _finish(self, engine: Engine) -> None:
        shares = gather_objects(self._cases)
        if process_rank() != 0:
            return
        cases: dict[str, _Case] = {}
        for share in shares:
            for case in share.values():
                _add(cases, case, repeatable=True)
        # in one order regardless of their division over processes, so that means are equal to the last digit
        self.results = {name: cases[name].classes for name in sorted(cases)}
        self.patients = {name: cases[name].patient for name in self.results}
        bins = [case.bins for _, case in sorted(cases.items()) if case.bins is not None]
        self.calibration = np.sum(bins, axis=0) if bins else None
        summary = write_report(self.output_dir, self.results, self.patients, self.labels, self.calibration)
        count = f"{len(cases)} case{'' if len(cases) == 1 else 's'}"
        logger.info("Metrics of %s, in %s:\n%s", count, self.output_dir, format_table(summary))


def identify_case(item: Mapping[str, Any]) -> tuple[str, str]:
    """A case's name, by "case" or the image's file name, and its file (empty if unknown); ValueError without a name."""
    image = item.get(CommonKeys.IMAGE)
    source = str(image.meta.get("filename_or_obj", "")) if isinstance(image, MetaTensor) else ""
    name = str(item.get("case") or re.sub(r"(\.nii)?\.\w+$", "", Path(source).name))
    if not name:
        raise ValueError("a case has no name: give each datalist entry a 'case', or load images with their metadata.")
    return name, source


def _spacing(pred: torch.Tensor, label: torch.Tensor) -> list[float]:
    if not isinstance(label, MetaTensor):
        raise ValueError("label must be a MetaTensor, whose affine gives the spacing; load it with LoadImaged.")
    spacing = _voxel_size(label)
    if isinstance(pred, MetaTensor) and not np.allclose(_voxel_size(pred), spacing, rtol=1e-3):
        raise ValueError(
            f"prediction and label must lie on one grid, got voxels of {_voxel_size(pred)} and {spacing} mm: "
            "invert the prediction to the image's own grid first."
        )
    return spacing


def _voxel_size(volume: MetaTensor) -> list[float]:
    return [float(size) for size in affine_to_spacing(volume.affine.cpu(), r=volume.ndim - 1)]


def _add(cases: dict[str, _Case], case: _Case, repeatable: bool) -> None:
    known = cases.get(case.name)
    if known is not None and not (repeatable and known.source == case.source):
        raise ValueError(
            f"two cases are called '{case.name}' ({known.source or 'unknown file'}, {case.source or 'unknown file'}): "
            "give each datalist entry its own 'case'."
        )
    cases[case.name] = case
