"""Headers, datalists and records of models, damaged by Hypothesis: read or refused, without crash, hang or code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.bundle_runs import CohortFolder, Trained
from support.processes import CONTEXT

pytest.importorskip("hypothesis")

from support.fuzzing import FORMATS, fuzz_datalists, fuzz_headers, fuzz_records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

HEADERS, DATALISTS, RECORDS = 2000, 1000, 1000


def _fuzzed(folder: Path, count: int, function: Any, *arguments: Any) -> None:
    """In a process of its own, which a library may crash."""
    process = CONTEXT.Process(target=function, args=(*arguments, count, folder))
    process.start()
    process.join()
    assert process.exitcode == 0
    found = json.loads((folder / "outcomes.json").read_text())
    assert found["failures"] == [], found["counts"]
    assert sum(found["counts"].values()) == count
    assert "refused without a word" not in found["counts"]


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_headers(kind: str, tmp_path: Path) -> None:
    _fuzzed(tmp_path, HEADERS // len(FORMATS), fuzz_headers, kind)


def test_changed_datalists(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    _fuzzed(tmp_path, DATALISTS, fuzz_datalists, shared_cohort.root / "datalist.json")


def test_changed_records(trained: Trained, tmp_path: Path) -> None:
    volume = trained.cohort.root / "images" / "case_5.nii.gz"
    _fuzzed(tmp_path, RECORDS, fuzz_records, trained.output_dir / "model.pt", volume)
