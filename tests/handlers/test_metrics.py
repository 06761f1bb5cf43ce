"""Metrics: one record each that files and pages follow from, and the score that selects weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from jsonschema import Draft202012Validator
from monai.data import MetaTensor
from support.processes import run_group
from support.report_parts import CASES, evaluate

from scripts.comparison.results import RunResult, cases_csv, read_result
from vqseg_bundle.handlers import CaseMetrics, MeanCaseDice
from vqseg_bundle.handlers.metrics import METRICS, Metric, StructurePair, compute_case_metrics, compute_class_dice

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
    assert cases_csv([old]).splitlines()[0] == "dataset,method,seed,case,patient,class,dice,jaccard,hd95_mm,status"
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


LABELS = {0: "background", 1: "core", 2: "rim"}


def volume(*values: int) -> MetaTensor:
    return MetaTensor(torch.tensor(values, dtype=torch.uint8).reshape(1, -1, 1, 1), affine=torch.eye(4))


def case(name: str, pred: MetaTensor, label: MetaTensor) -> dict:
    return {"case": name, "pred": pred, "label": label}


def evaluate_cases(*handlers: CaseMetrics, batches: list[list[dict]]) -> float:
    engine = Engine(lambda engine, batch: [{key: item[key] for key in ("pred", "label")} for item in batch])
    MeanCaseDice(len(LABELS)).attach(engine, "val_mean_dice")
    for handler in handlers:
        handler.attach(engine)
    engine.run(batches, max_epochs=1)
    return engine.state.metrics["val_mean_dice"]


NOTHING, CORE, BOTH = volume(0, 0, 0, 0), volume(1, 1, 0, 0), volume(1, 1, 2, 0)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(CORE, CORE)], 1.0),
        ([(volume(1, 0, 0, 0), CORE)], 2 / 3),
        # hallucinated in a case that lacks it: the mean of 1 and 0, where MONAI's MeanDice has 1
        ([(CORE, CORE), (CORE, NOTHING)], 0.5),
        ([(BOTH, CORE)], 0.5),
        ([(CORE, BOTH)], 0.5),
        # classes weigh the same, however many cases have them: core 1, 1, 2/3; rim 0
        ([(CORE, CORE), (CORE, BOTH), (volume(1, 0, 0, 0), CORE)], (8 / 9 + 0) / 2),
        ([(NOTHING, NOTHING), (CORE, CORE)], 1.0),
        ([(NOTHING, NOTHING)], 0.0),
        ([(CORE, NOTHING), (NOTHING, NOTHING)], 0.0),
    ],
)
def test_scores_by_hand(pairs: list[tuple[MetaTensor, MetaTensor]], expected: float):
    batches = [[case(str(index), *pair)] for index, pair in enumerate(pairs)]
    assert evaluate_cases(batches=batches) == pytest.approx(expected, abs=1e-7)


def random_batches(seed: int) -> list[list[dict]]:
    rng = np.random.default_rng(seed)
    batches: list[list[dict]] = []
    for index in range(7):
        highest = rng.integers(1, 4, 2)  # some cases lack some classes, in prediction, label or both
        maps = (torch.from_numpy(rng.integers(0, high, (1, 5, 4, 3)).astype(np.uint8)) for high in highest)
        batches.append([case(f"case {10 - index}", *(MetaTensor(values, affine=torch.eye(4)) for values in maps))])
    return batches


@pytest.mark.parametrize("seed", range(8))
def test_the_score_is_the_one_that_the_evaluation_reports(seed: int, tmp_path: Path):
    score = evaluate_cases(CaseMetrics(tmp_path, LABELS), batches=random_batches(seed))
    assert score == json.loads((tmp_path / "summary.json").read_text())["overall"]["dice"]["mean"]


def _evaluate_share(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    batches = random_batches(3)
    share = [batches[:5], batches[4:]][rank]  # both evaluate_cases the fifth case
    score = evaluate_cases(CaseMetrics(f"{folder}/out", LABELS), batches=share)
    Path(f"{folder}/score_{rank}").write_text(repr(score))
    dist.destroy_process_group()


def test_all_processes_have_the_score_of_all_cases(tmp_path: Path):
    run_group(_evaluate_share, 2, str(tmp_path))
    reported = json.loads((tmp_path / "out" / "summary.json").read_text())["overall"]["dice"]["mean"]
    assert [float((tmp_path / f"score_{rank}").read_text()) for rank in (0, 1)] == [reported] * 2
    assert reported == evaluate_cases(batches=random_batches(3))


def test_ignored_voxels_change_no_metric() -> None:
    """A square of 4 x 4 predicted as one of 4 x 6; what lies beyond the seventh column nobody has labelled."""
    label, pred = (torch.zeros(1, 10, 12, 1, dtype=torch.int64) for _ in range(2))
    label[0, 2:6, :4], pred[0, 2:6, :6] = 1, 1
    expected = compute_case_metrics(pred, label, 2, (1.0, 1.0, 1.0))
    label[0, :, 7:], pred[0, 1:9, 7:] = 2, 1
    assert compute_case_metrics(pred, label, 2, (1.0, 1.0, 1.0)) == expected
    assert compute_class_dice(pred, label, 2) == pytest.approx([2 * 16 / (16 + 24)])
    assert expected[0].values["dice"] == pytest.approx(0.8)
