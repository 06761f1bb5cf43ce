"""The report's files: Markdown, LaTeX, CSV and plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scripts.comparison.plan import ComparisonPlan
from scripts.comparison.plots import save_plots
from scripts.comparison.results import RunResult, read_result, write_record
from scripts.comparison.running import PlannedRun
from scripts.comparison.table import DatasetTable, build_tables
from scripts.comparison.text import latex_table, markdown_table, means_csv
from scripts.tool import write_between_markers

__all__ = ["collect", "write_report"]

_READING = (
    "Mean ± sample standard deviation over seeds of each run's mean over foreground classes of its class means over "
    "cases; one seed has no deviation. A structure that is missed or hallucinated counts with Dice 0 and the image's "
    "diagonal as distance, one that is absent and rightly not predicted does not count. Weights are those of the last "
    "iteration."
)
_TESTS = (
    "p: paired two-tailed t-test of Dice against {reference}, over the patients (each averaged over cases and "
    "their classes, and over the seeds that both methods have) and over those seeds; not corrected for the number of "
    "tests."
)


def collect(planned: Iterable[PlannedRun], output: Path) -> list[RunResult]:
    """Read the results of the finished runs.

    Raises:
        ValueError: a file does not have an evaluation's form.
    """
    return [
        read_result(output / run.folder, run.dataset.name, run.method.name, run.seed, each.state.record or {})
        for each in planned
        if each.seconds is not None
        for run in [each.run]
    ]


def write_report(plan: ComparisonPlan, results: Sequence[RunResult], output: Path, document: Path | None) -> list[Path]:
    """Write ``report.md``, ``report.tex``, ``report.csv``, the plots, and the record of the runs.

    Args:
        plan: the plan.
        results: results of its finished runs.
        output: existing folder.
        document: Markdown file that receives the report between its "comparison" markers, with plots beside it; or
            None.

    Returns:
        the written files.

    Raises:
        ValueError: two runs of a dataset evaluated different cases, or the document lacks the markers.
    """
    tables = build_tables(plan, results)
    written = {
        "report.md": _markdown(plan, tables, _plots(plan, tables, output)) + "\n",
        "report.tex": "\n\n".join(latex_table(table, plan.reference) for table in tables) + "\n",
        "report.csv": means_csv(tables),
    }
    for name, text in written.items():
        (output / name).write_text(text, encoding="utf-8")
    paths = [*(output / name for name in written), *write_record(results, output)]
    if document is not None:
        plots = _plots(plan, tables, document.parent, f"{document.stem}_")
        write_between_markers(document, "comparison", _markdown(plan, tables, plots, level=3))
        paths.append(document)
    return paths


def _plots(
    plan: ComparisonPlan, tables: Sequence[DatasetTable], folder: Path, prefix: str = ""
) -> dict[str, list[str]]:
    """Names of the plots by dataset."""
    return {table.name: save_plots(table, plan.reference, folder, prefix) for table in tables}


def _markdown(plan: ComparisonPlan, tables: Sequence[DatasetTable], plots: dict[str, list[str]], level: int = 1) -> str:
    parts = [f"{'#' * level} {plan.name}"]
    parts += [plan.note] if plan.note else []
    parts.append(f"Evaluated on the {plan.split} cases. {_READING}")
    parts += [_TESTS.format(reference=plan.reference)] if plan.reference else []
    for table in tables:
        parts += [f"{'#' * (level + 1)} {table.name}", markdown_table(table, plan.reference)]
        parts += [table.note] if table.note else []
        missing = [f"{row.method.name} seed {', '.join(map(str, row.missing))}" for row in table.rows if row.missing]
        parts += [f"Missing runs: {'; '.join(missing)}."] if missing else []
        parts += [f"![{_caption(name)} of {table.name}]({name})" for name in plots.get(table.name, [])]
    parts += _provenance(tables)
    return "\n\n".join(parts)


def _caption(name: str) -> str:
    return "Sweep" if "sweep-" in name else "Differences" if "differences-" in name else "Dice"


def _provenance(tables: Sequence[DatasetTable]) -> list[str]:
    """Machines and package versions of the runs."""
    records = [result.record for table in tables for row in table.rows for result in row.results.values()]
    machines = dict.fromkeys(_described(record["machine"]) for record in records)
    versions = dict.fromkeys(
        record["settings"]["version"] + (f" (commit {record['commit']})" if record["commit"] else "")
        for record in records
    )
    made = [f"Made by vqseg_bundle {', '.join(versions)}."] if versions else []
    return [*(f"Machine: {machine}." for machine in machines), *made]


def _described(machine: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in machine.items())
