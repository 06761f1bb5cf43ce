"""Records of measured cases, one JSON file each, and the Markdown made from them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.benchmark.contenders import Case, Comparison
from scripts.benchmark.measuring import MEASURED, Result

__all__ = ["case_record", "load_case", "markdown_report", "save_case", "show_bytes", "show_ratio", "show_seconds"]

_KEYS = ("title", "note", "machine", "moment", "options", "comparisons")
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
_HEADER = "| setting | contender | fastest | median | times the baseline | extra memory | runs |"
_RULE = "| --- | --- | ---: | ---: | ---: | ---: | ---: |"


def case_record(
    case: Case,
    machine: dict[str, str],
    moment: str,
    options: dict[str, Any],
    measured: Sequence[tuple[Comparison, list[Result]]],
) -> dict[str, Any]:
    """All measurements of a case, as plain data.

    Returns:
        "title", "note", "machine", "moment", "options" and "comparisons", each with its "setting", "baseline" and
        "results" with times in seconds, memory in bytes and "ratio", the minimum over the baseline's.
    """
    comparisons = []
    for comparison, results in measured:
        baseline = next((min(each.seconds, default=None) for each in results if each[0] == comparison.baseline), None)
        rows = [_result_record(result, baseline) for result in results]
        comparisons.append({"setting": dict(comparison.setting), "baseline": comparison.baseline, "results": rows})
    return dict(zip(_KEYS, (case.title, case.note, machine, moment, options, comparisons), strict=True))


def save_case(directory: Path, case: str, record: dict[str, Any]) -> Path:
    """Write ``<case>.json``; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{case}.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def load_case(directory: Path, case: str) -> dict[str, Any] | None:
    """The record written by :func:`save_case`, or None.

    Raises:
        ValueError: the file contains something else.
    """
    path = directory / f"{case}.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected a benchmark's record, found no JSON ({error}); remove the file.") from error
    missing = [key for key in _KEYS if key not in record] if isinstance(record, dict) else list(_KEYS)
    if missing:
        raise ValueError(f"{path}: expected a benchmark's record, found one without {missing}; remove the file.")
    return record


def markdown_report(records: Sequence[Mapping[str, Any]]) -> str:
    """The machines, then all tables, each with its note."""
    return "\n\n".join([_machines(records), *map(_section, records)])


def show_seconds(seconds: float | None) -> str:
    """Three digits with a unit."""
    if seconds is None:
        return ""
    factor, unit = next((pair for pair in _UNITS if seconds >= pair[0]), _UNITS[-1])
    value = seconds / factor
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def show_bytes(count: int | None) -> str:
    """Decimal MB, from 1,000 of them GB."""
    if count is None:
        return ""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def show_ratio(ratio: float | None) -> str:
    """Two decimals; below a tenth, as a fraction of one."""
    if ratio is None:
        return ""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"1/{1 / ratio:.0f}"


def _result_record(result: Result, baseline: float | None) -> dict[str, Any]:
    minimum = min(result.seconds, default=None)
    return {
        "contender": result.contender,
        "status": result.status,
        "runs": len(result.seconds),
        "minimum": minimum,
        "median": statistics.median(result.seconds) if result.seconds else None,
        "ratio": minimum / baseline if baseline and minimum is not None else None,
        "extra_bytes": result.extra_bytes,
        "seconds": list(result.seconds),
    }


def _section(record: Mapping[str, Any]) -> str:
    rows = [_row(comparison, result) for comparison in record["comparisons"] for result in comparison["results"]]
    clock = "; processor time, not time on the wall" if record["options"].get("clock") == "cpu" else ""
    table = "\n".join([_HEADER, _RULE, *rows])
    return "\n\n".join([f"### {record['title']}", record["note"], table, f"Begun {record['moment']}{clock}."])


def _machines(records: Sequence[Mapping[str, Any]]) -> str:
    """One line per machine, with its cases if there are several machines."""
    cases: dict[str, list[str]] = {}
    for record in records:
        described = "; ".join(f"{name} {value}" for name, value in record["machine"].items())
        cases.setdefault(described, []).append(record["title"])
    if len(cases) == 1:
        return f"Machine: {next(iter(cases))}."
    return "\n\n".join(f"Machine of {', '.join(titles)}: {described}." for described, titles in cases.items())


def _row(comparison: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    sizes = {name: f"{value:,}" if isinstance(value, int) else value for name, value in comparison["setting"].items()}
    cells = [", ".join(f"{name} {value}" for name, value in sizes.items()), result["contender"]]
    if result["status"] != MEASURED:
        cells += [result["status"], "", "", "", ""]
    else:
        cells[1] = f"**{cells[1]}**" if cells[1].startswith("ours") else cells[1]
        cells += [show_seconds(result["minimum"]), show_seconds(result["median"]), show_ratio(result["ratio"])]
        cells += [show_bytes(result["extra_bytes"]), str(result["runs"])]
    return f"| {' | '.join(cells)} |"
