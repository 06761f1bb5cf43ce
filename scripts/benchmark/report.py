"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scripts.benchmark.comparison import MEASURED

__all__ = ["markdown_report", "show_bytes", "show_ratio", "show_seconds"]

_HEADER = "| setting | contender | fastest | median | times the baseline | extra memory | runs |"
_RULE = "| --- | --- | ---: | ---: | ---: | ---: | ---: |"


def markdown_report(records: Mapping[str, Mapping[str, Any]], plot: str | None = None) -> str:
    """The machines, then all tables, each with its note; the plot below the case "scaling".

    Args:
        records: by case, from :func:`~scripts.benchmark.store.case_record`.
        plot: link to the plot, or None.
    """
    sections = [_section(record, plot if case == "scaling" else None) for case, record in records.items()]
    return "\n\n".join([_machines(records), *sections])


def show_seconds(seconds: float | None) -> str:
    """Three digits with a unit."""
    if seconds is None:
        return ""
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= factor:
            return f"{_three_digits(seconds / factor)} {unit}"
    return f"{_three_digits(seconds / 1e-6)} us"


def show_bytes(count: int | None) -> str:
    """Decimal MB, from 1,000 of them GB."""
    if count is None:
        return ""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def show_ratio(ratio: float | None) -> str:
    """Two decimals; below a tenth as a fraction of one."""
    if ratio is None:
        return ""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"1/{1 / ratio:.0f}"


def _three_digits(value: float) -> str:
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f}"


def _section(record: Mapping[str, Any], plot: str | None) -> str:
    rows = [_row(comparison, result) for comparison in record["comparisons"] for result in comparison["results"]]
    parts = [f"### {record['title']}", record["note"], "\n".join([_HEADER, _RULE, *rows])]
    if plot:
        parts.append(f"![Time and memory over N and K]({plot})")
    clock = "; processor time, not time on the wall" if record["options"].get("clock") == "cpu" else ""
    return "\n\n".join([*parts, f"Begun {record['moment']}{clock}."])


def _machines(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each machine, with the cases measured on it where there are several."""
    cases: dict[str, list[str]] = {}
    for record in records.values():
        described = "; ".join(f"{name} {value}" for name, value in record["machine"].items())
        cases.setdefault(described, []).append(record["title"])
    if len(cases) == 1:
        return f"Machine: {next(iter(cases))}."
    return "\n\n".join(f"Machine of {', '.join(titles)}: {described}." for described, titles in cases.items())


def _row(comparison: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    setting = ", ".join(f"{name} {_show_size(value)}" for name, value in comparison["setting"].items())
    name = result["contender"]
    if result["status"] != MEASURED:
        cells = [setting, name, result["status"], "", "", "", ""]
    else:
        cells = [
            setting,
            f"**{name}**" if name.startswith("ours") else name,
            show_seconds(result["minimum"]),
            show_seconds(result["median"]),
            show_ratio(result["ratio"]),
            show_bytes(result["extra_bytes"]),
            str(result["runs"]),
        ]
    return f"| {' | '.join(cells)} |"


def _show_size(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
