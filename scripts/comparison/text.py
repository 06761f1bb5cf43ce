"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from scripts.comparison.results import csv_number, measured
from scripts.comparison.table import DatasetTable, Row, Spread
from vqseg_bundle.common import csv_text
from vqseg_bundle.handlers.metrics import Metric

__all__ = ["escape_latex", "latex_table", "markdown_table", "means_csv", "show_p", "show_spread"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def markdown_table(table: DatasetTable, reference: str | None) -> str:
    """One row per method; without a finished run, its cells say "missing".

    Args:
        table: the numbers.
        reference: name of the method that the others are tested against, or None.
    """
    titles = [metric.title for metric in table.metrics]
    header = ["method", "labelled / unlabelled", *titles, "seeds", "p, patients", "p, seeds", "minutes"]
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)]]
    lines += [
        [row.method.name.replace("|", "\\|"), *_cells(row, table.metrics, reference, " ± ", "missing")]
        for row in table.rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex_table(table: DatasetTable, reference: str | None) -> str:
    """The same as a LaTeX ``table`` with booktabs.

    Args:
        table: the numbers.
        reference: name of the method that the others are tested against, or None.
    """
    titles = [metric.title for metric in table.metrics]
    header = ["Method", "Lab.\\,/\\,unlab.", *titles, "Seeds", "$p$, patients", "$p$, seeds", "Minutes"]
    rows = [
        [
            escape_latex(row.method.name),
            *(cell.replace("<", "$<$") for cell in _cells(row, table.metrics, reference, r" $\pm$ ", "--")),
        ]
        for row in table.rows
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{escape_latex(f'{table.name}. {table.note}'.strip())}}}",
            f"\\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}",
            r"\toprule",
            f"{' & '.join(header)} \\\\",
            r"\midrule",
            *(f"{' & '.join(row)} \\\\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def means_csv(tables: Iterable[DatasetTable]) -> str:
    """One row per dataset, method and class, and one for all classes; not rounded, undefined values are empty."""
    header = ["dataset", "method", "class", "labeled", "unlabeled", "seeds", "planned_seeds"]
    tables = list(tables)
    metrics = measured(result for table in tables for row in table.rows for result in row.results.values())
    header += [f"{metric.name}_{part}" for metric in metrics for part in ("mean", "sd")]
    lines: list[list[object]] = [[*header, "p_patients", "p_seeds", "training_minutes"]]
    for table in tables:
        for row in table.rows:
            start = [table.name, row.method.name]
            counts = [row.labeled, row.unlabeled, len(row.results), len(row.planned)]
            end = [csv_number(row.p_patient), csv_number(row.p_seed), csv_number(row.minutes)]
            lines.append([*start, "all", *counts, *_numbers(row.overall, metrics), *end])
            lines += [[*start, name, *counts, *_numbers(of, metrics), "", "", ""] for name, of in row.classes.items()]
    return csv_text(lines)


def show_spread(value: Spread, decimals: int, plus_minus: str) -> str:
    """Mean with the standard deviation, if any; "n.a." without a mean."""
    if math.isnan(value.mean):
        return "n.a."
    mean = f"{value.mean:.{decimals}f}"
    return mean if math.isnan(value.deviation) else f"{mean}{plus_minus}{value.deviation:.{decimals}f}"


def show_p(p: float) -> str:
    """Three decimals; "n.a." if undefined."""
    if math.isnan(p):
        return "n.a."
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def escape_latex(text: str) -> str:
    """Text escaped for LaTeX."""
    return re.sub(r"[\\~^&%$#_{}]", lambda found: _LATEX[found[0]], text)


def _cells(row: Row, metrics: Sequence[Metric], reference: str | None, plus_minus: str, missing: str) -> list[str]:
    seeds = f"{len(row.results)} of {len(row.planned)}" if row.missing else str(len(row.planned))
    if not row.results:
        return [missing, *[missing] * len(metrics), seeds, "", "", ""]
    if reference is None:
        tests = ["", ""]
    elif row.method.name == reference:
        tests = ["reference", "reference"]
    else:
        tests = [show_p(row.p_patient), show_p(row.p_seed)]
    values = [show_spread(row.overall[metric.name], metric.decimals, plus_minus) for metric in metrics]
    return [f"{row.labeled} / {row.unlabeled}", *values, seeds, *tests, f"{row.minutes:.1f}"]


def _numbers(spreads: Mapping[str, Spread], metrics: Sequence[Metric]) -> list[str]:
    found = [spreads[metric.name] for metric in metrics]
    return [csv_number(part) for each in found for part in (each.mean, each.deviation)]
