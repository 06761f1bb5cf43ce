"""Records of comparisons: what is kept of finished runs makes the same report again."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from support.bundle_runs import ROOT
from support.comparison_parts import evaluation, write_evaluation

from scripts.comparison import __main__ as compare
from scripts.comparison.results import RECORD_FILES, RunResult, read_record, read_result, write_record
from scripts.tool import markers


def made_up(folder: Path, method: str, seed: int, threads: int) -> RunResult:
    record = {
        "settings": {"split": "test", "seed": seed, "overrides": {"amp": method == "+ ours"}, "version": "0.1.0"},
        "machine": {"processor": f"abacus, {threads} threads"},
        "seconds": {"training": 90.5 + seed, "evaluating": 5.25},
        "finished": "2026-01-02T03:04:05+00:00",
        "commit": None if seed else "abc",
        "inputs": "d1ge57",
        "labeled": 2,
        "unlabeled": 14,
    }
    write_evaluation(folder, evaluation(f"{method}{seed}"), {"a": "P1", "b": "P1", "c": "P2"})
    return read_result(folder, "nested", method, seed, record)


def test_a_record_gives_back_what_it_was_given(tmp_path: Path) -> None:
    results = [made_up(tmp_path, method, seed, seed) for method in ("base", "+ ours") for seed in (0, 1)]
    assert [path.name for path in write_record(results, tmp_path)] == list(RECORD_FILES)
    found = read_record(tmp_path)
    assert [(each.dataset, each.method, each.seed, each.record) for each in found] == [
        (each.dataset, each.method, each.seed, each.record) for each in results
    ]
    for ours, theirs in zip(found, results, strict=True):
        assert ours.overall == theirs.overall
        assert [(row.case, row.patient, row.class_name, row.status) for row in ours.rows] == [
            (row.case, row.patient, row.class_name, row.status) for row in theirs.rows
        ]
        assert ours.patients == {"a": "P1", "b": "P1", "c": "P2"}
        assert math.isnan(ours.rows[3].values["hd95_mm"])  # the absent class of the second case


def test_a_record_of_evaluations_with_more_and_with_fewer_metrics_is_read(tmp_path: Path) -> None:
    new, old = made_up(tmp_path, "base", 0, 0), made_up(tmp_path, "ours", 0, 0)
    for row in old.rows:
        del row.values["asd_mm"]
    write_record([new, old], tmp_path)
    assert [found.metrics for found in read_record(tmp_path)] == [new.metrics, ["dice", "jaccard", "hd95_mm"]]


def test_the_published_table_is_made_from_its_record(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "results" / "bottleneck.md", tmp_path)
    published = (tmp_path / "bottleneck.md").read_text()
    begin, end = markers("comparison")
    emptied = published[: published.index(begin)] + f"{begin}\n{end}" + published[published.index(end) + len(end) :]
    (tmp_path / "bottleneck.md").write_text(emptied)
    record = ROOT / "docs" / "results" / "two_cores"
    words = ["--plan", str(ROOT / "plans" / "two_cores.yaml"), "--record", str(record)]
    compare.main([*words, "--output", str(tmp_path / "out"), "--write", str(tmp_path / "bottleneck.md")])
    assert (tmp_path / "bottleneck.md").read_text() == published
    for name in RECORD_FILES:  # and the report keeps the record that it was made from
        assert sorted((tmp_path / "out" / name).read_text().splitlines()) == sorted(
            (record / name).read_text().splitlines()
        )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("runs.csv", None, r"expected a record \(cases\.csv, runs\.csv, runs\.json\), found no runs\.csv"),
        ("runs.json", "{}", r"expected the record of a comparison, but: KeyError\('settings'\); write it again"),
        ("cases.csv", "dataset,method,seed\nnested,base,0\n", r"but: KeyError\('class'\)"),
    ],
)
def test_a_spoiled_record_is_refused(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    write_record([made_up(tmp_path, "base", 0, 1)], tmp_path)
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_record(tmp_path)
