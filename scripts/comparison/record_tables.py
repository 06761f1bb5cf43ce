"""The runs of a plan as two tables and one JSON, small enough to be kept beside a document.

``cases.csv`` holds what every evaluation found, ``runs.csv`` a line for each run with its times and counts, and
``runs.json`` what runs have in common, settings and machines, which ``runs.csv`` names by position. The report made
from them is the one made from the runs themselves.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.comparison.results import CaseClass, RunResult, parse_case
from scripts.comparison.text import cases_csv
from vqseg_bundle.common import write_json

__all__ = ["RECORD_FILES", "read_record", "write_record"]

RECORD_FILES = ("cases.csv", "runs.csv", "runs.json")
_COUNTS = ("labeled", "unlabeled")
_STAGES = ("training", "evaluating")
_COLUMNS = ["dataset", "method", "seed", *_COUNTS, *(f"{stage}_seconds" for stage in _STAGES)]
_COLUMNS += ["finished", "commit", "inputs", "settings", "machine"]


def write_record(results: Iterable[RunResult], folder: Path) -> list[Path]:
    """Write the three files into an existing folder.

    Args:
        results: of finished runs.
        folder: where to write.

    Returns:
        what was written.
    """
    results = list(results)
    settings, machines = _distinct(results, "settings"), _distinct(results, "machine")
    texts = {"cases.csv": cases_csv(results), "runs.csv": _runs_csv(results, settings, machines)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    write_json(folder / "runs.json", {"settings": settings, "machines": machines})
    return [folder / name for name in RECORD_FILES]


def read_record(folder: Path) -> list[RunResult]:
    """The results that :func:`write_record` was given, in their order.

    Args:
        folder: with the three files.

    Raises:
        ValueError: a file is missing or is not what :func:`write_record` writes.
    """
    missing = [name for name in RECORD_FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: expected a record ({', '.join(RECORD_FILES)}), found no {missing[0]}.")
    try:
        common = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
        rows: dict[tuple[str, str, int], list[CaseClass]] = {}
        for line in _lines(folder / "cases.csv"):
            rows.setdefault(_run_of(line), []).append(parse_case(line, line["class"]))
        return [
            RunResult(*_run_of(line), tuple(rows[_run_of(line)]), _run_record(line, common))
            for line in _lines(folder / "runs.csv")
        ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{folder}: expected the record of a comparison, but: {error!r}; write it again.") from error


def _distinct(results: Sequence[RunResult], key: str) -> list[dict[str, Any]]:
    """The different values under a key of the runs' records, in the order of their first use."""
    found: list[dict[str, Any]] = []
    for result in results:
        value = _shared(result.record[key])
        if value not in found:
            found.append(value)
    return found


def _shared(value: Mapping[str, Any]) -> dict[str, Any]:
    """Without the seed, which each run has for itself."""
    return {key: item for key, item in value.items() if key != "seed"}


def _runs_csv(results: Sequence[RunResult], settings: list[dict[str, Any]], machines: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for result in results:
        record = result.record
        writer.writerow(
            [
                result.dataset,
                result.method,
                result.seed,
                *(record[name] for name in _COUNTS),
                *(record["seconds"].get(stage, "") for stage in _STAGES),
                record.get("finished", ""),
                record["commit"] or "",
                record.get("inputs", ""),
                settings.index(_shared(record["settings"])),
                machines.index(_shared(record["machine"])),
            ]
        )
    return text.getvalue()


def _run_record(line: Mapping[str, str], common: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "settings": {**common["settings"][int(line["settings"])], "seed": int(line["seed"])},
        "machine": common["machines"][int(line["machine"])],
        **{name: int(line[name]) for name in _COUNTS},
        "seconds": {stage: float(line[f"{stage}_seconds"]) for stage in _STAGES if line[f"{stage}_seconds"]},
        "finished": line["finished"],
        "commit": line["commit"] or None,
        "inputs": line["inputs"],
    }


def _run_of(line: Mapping[str, str]) -> tuple[str, str, int]:
    return line["dataset"], line["method"], int(line["seed"])


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
