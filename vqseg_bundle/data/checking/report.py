"""The result of a data check: findings and a summary of the cohort, also as JSON (docs/data_check.schema.json)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .facts import CaseFacts
from .findings import FINDING_KINDS, Finding

__all__ = ["CheckReport", "summarize_cohort"]

_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class CheckReport:
    """What a check at a level found in a datalist: findings in the order of :data:`FINDING_KINDS`, a summary, and
    the facts about every case.
    """

    source: str
    level: str
    findings: list[Finding]
    summary: dict[str, Any]
    cases: list[CaseFacts]

    @property
    def errors(self) -> list[Finding]:
        """Findings that stop a run."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Findings that do not."""
        return [finding for finding in self.findings if finding.severity == "warning"]

    def to_json(self) -> dict[str, Any]:
        """The report as docs/data_check.schema.json describes it."""
        return {
            "schema_version": _SCHEMA_VERSION,
            "datalist": self.source,
            "level": self.level,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "cohort": self.summary,
            "findings": [
                {
                    "severity": finding.severity,
                    "code": finding.code,
                    "meaning": FINDING_KINDS[finding.code].meaning,
                    "files": list(finding.files),
                    "text": finding.text,
                    "expected": finding.expected,
                    "found": finding.found,
                    "remedy": finding.advice,
                }
                for finding in self.findings
            ],
        }


def summarize_cohort(name: str, cases: Sequence[CaseFacts], labels: Mapping[int, str]) -> dict[str, Any]:
    """Count cases by split, describe the images' geometry, and count the voxels of every class, as far as known."""
    headers = list({case.image: case.image_header for case in cases if case.image_header}.values())
    return {
        "name": name,
        "splits": _splits(cases),
        "shape": _range([known.header.spatial_shape for known in headers]),
        "spacing_mm": _range([known.spacing for known in headers]),
        "orientations": dict(Counter(known.axis_codes for known in headers).most_common()),
        "identity_affines": sum(np.array_equal(np.ravel(np.eye(4)), known.affine) for known in headers),
        "classes": _classes(cases, labels),
    }


def _splits(cases: Sequence[CaseFacts]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for split in dict.fromkeys(case.split for case in cases):
        members = [case for case in cases if case.split == split]
        found[split] = {
            "patients": len({case.patient for case in members}),
            "cases": len(members),
            "labels": sum(case.label is not None for case in members),
        }
    return found


def _range(rows: Sequence[Sequence[float]]) -> dict[str, list[float]] | None:
    if not rows:
        return None
    values = np.array(rows, dtype=float)
    parts = {"min": values.min(axis=0), "median": np.median(values, axis=0), "max": values.max(axis=0)}
    return {name: [round(float(v), 4) for v in part] for name, part in parts.items()}


def _classes(cases: Sequence[CaseFacts], labels: Mapping[int, str]) -> list[dict[str, Any]]:
    files = {case.label: case.label_voxels for case in cases if case.label and case.label_voxels}
    total = sum(facts.size for facts in files.values())
    counts = [dict(facts.counts) for facts in files.values()]
    found = []
    for index, name in labels.items():
        voxels = sum(count.get(index, 0) for count in counts)
        share = voxels / total if total else None
        holders = sum(count.get(index, 0) > 0 for count in counts)
        found.append({"index": index, "name": name, "labels": holders, "voxels": voxels, "share": share})
    return found
