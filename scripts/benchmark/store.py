"""Results on disk: one JSON file a case, so that cases may be measured on their own and reported together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.benchmark.comparison import MEASURED, CaseDefinition, Comparison, Result

__all__ = ["case_record", "load_case", "save_case"]

_KEYS = ("title", "note", "machine", "moment", "options", "comparisons")


def case_record(
    definition: CaseDefinition,
    machine: dict[str, str],
    moment: str,
    options: dict[str, Any],
    measured: Sequence[tuple[Comparison, list[Result]]],
) -> dict[str, Any]:
    """Everything measured of a case, as plain data.

    Args:
        definition: the case.
        machine: what it ran on.
        moment: when it began, and how busy the machine was.
        options: how it was measured.
        measured: each comparison with its results.

    Returns:
        with "title", "note", "machine", "moment", "options" and "comparisons"; each of these holds its "setting",
        "baseline" and "results" with times in seconds, memory in bytes and "ratio", the minimum over the baseline's.
    """
    return {
        "title": definition.title,
        "note": definition.note,
        "machine": machine,
        "moment": moment,
        "options": options,
        "comparisons": [_comparison_record(comparison, results) for comparison, results in measured],
    }


def save_case(directory: Path, case: str, record: dict[str, Any]) -> Path:
    """Write ``<case>.json``; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{case}.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def load_case(directory: Path, case: str) -> dict[str, Any] | None:
    """The record that :func:`save_case` wrote; None where there is none.

    Raises:
        ValueError: the file holds something else.
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


def _comparison_record(comparison: Comparison, results: Sequence[Result]) -> dict[str, Any]:
    baseline = next((result.minimum for result in results if result.contender == comparison.baseline), None)
    return {
        "setting": dict(comparison.setting),
        "baseline": comparison.baseline,
        "results": [
            {
                "contender": result.contender,
                "status": result.status,
                "runs": len(result.seconds),
                "minimum": result.minimum,
                "median": result.median,
                "ratio": result.minimum / baseline if baseline and result.minimum is not None else None,
                "extra_bytes": result.extra_bytes if result.status == MEASURED else None,
                "seconds": list(result.seconds),
            }
            for result in results
        ],
    }
