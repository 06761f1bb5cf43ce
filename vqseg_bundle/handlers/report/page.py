"""Fills the results of an evaluation into the report's template; jinja2 escapes every name."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from vqseg_bundle.handlers.case_metrics import summarize
from vqseg_bundle.handlers.metrics import METRICS, ClassMetrics, Metric
from vqseg_bundle.handlers.report.case_slice import CaseSlice
from vqseg_bundle.handlers.report.certainty import Estimates, describe_calibration, describe_estimates
from vqseg_bundle.handlers.report.intervals import RESAMPLES, Interval, bootstrap_intervals
from vqseg_bundle.handlers.report.pictures import Dot, class_colors, draw_agreement, draw_case, draw_distribution
from vqseg_bundle.handlers.report.volumes import Measured, show_volume, volume_tables

__all__ = ["Records", "choose_examples", "render_page"]

Results = Mapping[str, Sequence[ClassMetrics]]


class Records(NamedTuple):
    """Records for repeating an evaluation: its run and configuration, the training's run; empty ones are left out."""

    run: Mapping[str, Any]
    config: Mapping[str, Any]
    training: Mapping[str, Any]


def render_page(
    title: str,
    results: Results,
    patients: Mapping[str, str],
    labels: Mapping[int, str],
    slices: Mapping[str, CaseSlice],
    volumes: Mapping[str, tuple[Measured, Measured]],
    model: Mapping[str, Any],
    records: Records,
    examples: int,
    left_out: int = 0,
    scores: Mapping[str, float] | None = None,
    calibration: np.ndarray | None = None,
    estimates: Estimates | None = None,
) -> str:
    """The whole page as HTML.

    Args:
        title: cohort and split.
        results: case name to the metrics of each foreground class.
        patients: case name to patient.
        labels: class index to name, background included.
        slices: case name to its slice; a case may lack one.
        volumes: case name to the volumes of its label and its prediction; if one is not known in ml, lengths are in
            voxels, too.
        model: the weights' record.
        records: the evaluation's records.
        examples: number of best, median and worst cases to show, each.
        left_out: number of cases not evaluated for lack of a label.
        scores: mean Dice of other predictions, "dice_other_codes" and "dice_without_skips", if any.
        calibration: voxels by confidence, see :func:`~vqseg_bundle.handlers.calibration.fill_bins`, if known.
        estimates: of Dice without the labels; None leaves them out.
    """
    folder = Path(__file__).parent
    templates = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters["shell"] = _quote
    names = [labels[index] for index in sorted(labels)[1:]]
    colors = class_colors(len(names))
    anchors = {name: f"case-{position}" for position, name in enumerate(sorted(results), start=1)}
    sizes = volume_tables(volumes, names, colors)
    metrics = [replace(m, unit="voxels") if m.unit == "mm" and not sizes["in_ml"] else m for m in METRICS.values()]
    in_cases = [metric for metric in metrics if metric.in_cases]
    unit = "ml" if sizes["in_ml"] else "voxels"
    return templates.get_template("page.html.jinja").render(
        title=title,
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        script=Markup((folder / "page.js").read_text(encoding="utf-8")),
        classes=list(zip(names, colors, strict=True)),
        metrics=metrics,
        estimate=describe_estimates(estimates, {name: _mean_dice(rows) for name, rows in results.items()}),
        case_headings=[*(metric.heading for metric in in_cases), f"label ({unit})", f"prediction ({unit})"],
        resamples=RESAMPLES,
        summary=_summary_rows(results, patients, labels, colors),
        counts=summarize(results.values(), labels)["status_counts"],
        distributions=_distributions(results, names, colors, anchors, in_cases),
        sizes=sizes,
        unit=unit,
        agreement=draw_agreement(sizes["pairs"], colors, anchors, unit),
        calibration=describe_calibration(calibration),
        groups=_example_groups(results, labels, slices, colors, anchors, examples, in_cases),
        has_reconstruction=any(shown.reconstruction is not None for shown in slices.values()),
        cases=[_case_row(name, results[name], anchors[name], in_cases, sizes, estimates) for name in sorted(results)],
        facts=_facts(model, len(results), left_out) | _reliance(scores or {}),
        records=records,
        config=json.dumps(records.config, indent=2) if records.config else "",
    )


def choose_examples(results: Results, examples: int) -> dict[str, list[str]]:
    """Names of the best, median and worst cases by mean Dice over classes, best first, none twice; ties go by name.

    Cases without any class have no Dice and are left out. With fewer than three times ``examples`` cases there are
    fewer.
    """
    ranked = {name: _mean_dice(rows) for name, rows in results.items()}
    order = sorted((name for name in ranked if not math.isnan(ranked[name])), key=lambda name: (-ranked[name], name))
    if examples == 0 or not order:
        return {}
    if len(order) < 3:
        return {"Best": order[:1], "Worst": order[1:]} if order[1:] else {"The one case": order}
    count = min(examples, len(order) // 3)
    middle = (len(order) - count) // 2
    return {"Best": order[:count], "Median": order[middle : middle + count], "Worst": order[-count:]}


def _mean_dice(rows: Sequence[ClassMetrics]) -> float:
    counted = [row.values["dice"] for row in rows if not math.isnan(row.values["dice"])]
    return float(np.mean(counted)) if counted else math.nan


def _summary_rows(
    results: Results, patients: Mapping[str, str], labels: Mapping[int, str], colors: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per class, and one for all if there are several: mean, standard deviation and interval of each metric."""
    summary = summarize(results.values(), labels)
    entries = [{**entry, "color": color} for entry, color in zip(summary["classes"], colors, strict=True)]
    whole = {
        **summary["overall"],
        "name": "mean of the classes",
        "color": "",
        "status_counts": summary["status_counts"],
    }
    intervals = {metric: _intervals(results, patients, metric, len(entries)) for metric in METRICS}
    rows = [
        {
            "name": entry["name"],
            "color": entry["color"],
            "n": entry["dice"]["n"],
            "counts": entry["status_counts"],
            "cells": [_summary_cell(entry[metric], intervals[metric][position], metric) for metric in METRICS],
        }
        for position, entry in enumerate([*entries, whole])
    ]
    return rows if len(entries) > 1 else rows[:1]


def _intervals(results: Results, patients: Mapping[str, str], metric: str, classes: int) -> list[Interval]:
    names = sorted(results)
    rows = [[row.values[metric] for row in results[name]] for name in names]
    values = np.array(rows, dtype=np.float64).reshape(len(rows), classes)
    return bootstrap_intervals(values, [patients.get(name, name) for name in names])


def _summary_cell(statistics: Mapping[str, Any], interval: Interval, metric: str) -> dict[str, str]:
    show = METRICS[metric].show
    bounds = "" if math.isnan(interval.low) else f"{show(interval.low)} to {show(interval.high)}"
    return {"mean": show(statistics["mean"]), "std": show(statistics["std"]), "interval": bounds}


def _distributions(
    results: Results,
    names: Sequence[str],
    colors: Sequence[str],
    anchors: Mapping[str, str],
    metrics: Sequence[Metric],
) -> dict[str, Markup]:
    drawn = {}
    for metric in metrics:
        values = {
            name: [
                Dot(rows[position].values[metric.name], rows[position].status == "ok", f"#{anchors[case]}")
                for case, rows in results.items()
                if rows[position].status != "absent"
            ]
            for position, name in enumerate(names)
        }
        drawn[metric.heading] = draw_distribution(values, colors, metric.heading, metric.limits)
    return drawn


def _example_groups(
    results: Results,
    labels: Mapping[int, str],
    slices: Mapping[str, CaseSlice],
    colors: Sequence[str],
    anchors: Mapping[str, str],
    examples: int,
    metrics: Sequence[Metric],
) -> dict[str, list[dict[str, Any]]]:
    return {
        group: [
            {
                "name": name,
                "anchor": anchors[name],
                "shown": slices[name],
                "picture": draw_case(slices[name], colors),
                "classes": [
                    (labels[row.class_index], colors[row.class_index - 1], _words(row, metrics))
                    for row in results[name]
                ],
            }
            for name in names
            if name in slices
        ]
        for group, names in choose_examples(results, examples).items()
    }


def _words(row: ClassMetrics, metrics: Sequence[Metric]) -> str:
    if row.status == "ok":
        shown = (f"{m.title} {m.show(row.values[m.name])} {m.unit}".strip() for m in metrics)
        return ", ".join(shown)
    return "in neither" if row.status == "absent" else row.status


def _case_row(
    name: str,
    rows: Sequence[ClassMetrics],
    anchor: str,
    metrics: Sequence[Metric],
    sizes: Mapping[str, Any],
    estimates: Estimates | None,
) -> dict[str, Any]:
    """Texts of a case's row and their sort values; an absent class has none."""
    mean = _mean_dice(rows)
    whole = [mean] if estimates is None or estimates.line.reason else [mean, estimates.cases.get(name, math.nan)]
    cells = [
        {"text": METRICS["dice"].show(value), "value": "" if math.isnan(value) else value, "status": "ok"}
        for value in whole
    ]
    for row, pairs in zip(rows, sizes["pairs"].values(), strict=True):
        for position, metric in enumerate(metrics):
            value = row.values[metric.name]
            text = row.status if row.status != "ok" and position == 0 else metric.show(value)
            cells.append({"text": text, "value": "" if math.isnan(value) else value, "status": row.status})
        for value in pairs.get(name, (math.nan, math.nan)):
            text = show_volume(value, sizes["in_ml"])
            cells.append({"text": text, "value": "" if math.isnan(value) else value, "status": row.status})
    return {"name": name, "anchor": anchor, "cells": cells}


def _quote(word: str) -> str:
    """The word quoted for a shell; if it has single quotes, in double ones, which are easier to read."""
    plain = "'" in word and not set(word) & set('"$`\\!')
    return f'"{word}"' if plain else shlex.quote(word)


def _facts(model: Mapping[str, Any], cases: int, left_out: int) -> dict[str, str]:
    network, preprocessing = model["network"], model["preprocessing"]
    codes = network.get("num_embeddings")
    return {
        "Cases": f"{cases}, and {left_out} without a label left out" if left_out else str(cases),
        "Weights": str(model["checkpoint"]),
        "Network": f"{preprocessing['spatial_dims']}D, " + (f"{codes} codes" if codes else "without quantisation"),
        "Patch": " x ".join(map(str, preprocessing.get("patch_size") or ["whole image"])),
    }


def _reliance(scores: Mapping[str, float]) -> dict[str, str]:
    titles = {"dice_other_codes": "With another case's codes", "dice_without_skips": "Without skip connections"}
    return {title: f"mean Dice {scores[name]:.3f}" for name, title in titles.items() if name in scores}
