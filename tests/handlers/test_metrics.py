"""A metric is one record: every table, file and page follows from it; readers take files with more or fewer of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from support.report_parts import CASES, evaluate

from scripts.comparison.results import RunResult, cases_csv, read_result
from vqseg_bundle.handlers.metrics import METRICS, Metric, StructurePair

SCHEMA = Path(__file__).parents[2] / "docs" / "summary.schema.json"


def lost_volume(pair: StructurePair) -> float:
    """Voxels of the label that the prediction does not have, as many ml."""
    return float(pair.label.sum() - pair.pred.sum()) * 6.0 / 1000


@pytest.fixture
def one_more(monkeypatch: pytest.MonkeyPatch) -> str:
    metric = Metric("lost_ml", "Lost volume", "ml", 1, False, (-1.0, None), lost_volume, in_cases=True)
    monkeypatch.setitem(METRICS, metric.name, metric)
    return metric.name


def test_a_metric_of_the_table_is_in_every_file_and_on_the_page(tmp_path: Path, one_more: str) -> None:
    page = evaluate(tmp_path, CASES)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # a class that the label alone has, a cube of 4 voxels a side, of 1 x 2 x 3 mm each: 64 * 6 mm3
    assert [row[one_more] for row in rows if row["status"] == "missed"] == ["0.384000"]
    assert [row[one_more] for row in rows if row["status"] == "absent"] == [""] * 3
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert not list(Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(summary))
    assert summary["classes"][0][one_more]["mean"] == pytest.approx(0.384 / 3)
    assert "Lost volume (ml)</th>" in page
    assert "Lost volume 0.0 ml" in page
    assert page.count("<figure aria-label=") == 3  # a distribution of each metric that is shown by case


def read(folder: Path, seed: int) -> RunResult:
    return read_result(folder, "nested", "ours", seed, {})


def test_results_of_more_and_of_fewer_metrics_are_read_together(tmp_path: Path, one_more: str) -> None:
    evaluate(tmp_path / "new", CASES)
    new = read(tmp_path / "new", 1)
    assert new.metrics == [*METRICS]
    lines = [line.split(",") for line in (tmp_path / "new" / "metrics.csv").read_text().splitlines()]
    dropped = {lines[0].index(name) for name in ("asd_mm", one_more)}
    (tmp_path / "old").mkdir()
    text = "\n".join(",".join(cell for i, cell in enumerate(line) if i not in dropped) for line in lines)
    (tmp_path / "old" / "metrics.csv").write_text(text + "\n")
    old = read(tmp_path / "old", 0)
    assert old.metrics == ["dice", "jaccard", "hd95_mm"]
    assert old.overall == {name: new.overall[name] for name in old.metrics}
    assert cases_csv([old]).splitlines()[0] == "dataset,method,seed,case,class,dice,jaccard,hd95_mm,status"
    both = list(csv.DictReader(cases_csv([old, new]).splitlines()))
    assert [row["asd_mm"] for row in both if row["seed"] == "0"] == [""] * len(old.rows)
    assert one_more in both[0]


def test_a_file_of_a_metric_that_is_no_longer_known_is_read(tmp_path: Path) -> None:
    header, row = "case,class_index,class_name,dice,sharpness,status", "a,1,core,0.5,7,ok"
    (tmp_path / "metrics.csv").write_text(f"{header}\n{row}\n")
    assert read(tmp_path, 0).overall == {"dice": 0.5}
    (tmp_path / "metrics.csv").write_text("case,class_index,class_name,sharpness,status\na,1,core,7,ok\n")
    with pytest.raises(ValueError, match=r"metrics.csv: expected the columns .*'dice'.*, found .*'sharpness'"):
        read(tmp_path, 0)
