from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path

import jsonschema
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, MetaTensor, list_data_collate
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from support.processes import run_group

from vqseg_bundle.handlers.case_metrics import CaseMetrics, compute_case_metrics, summarize

LABELS = {0: "background", 1: "core", 2: "rim"}
SCHEMA = Path(__file__).parents[2] / "docs" / "summary.schema.json"


def volume(*boxes: tuple[int, tuple[slice, ...]], shape: tuple[int, ...] = (10, 12, 14)) -> torch.Tensor:
    result = torch.zeros(1, *shape, dtype=torch.uint8)
    for index, box in boxes:
        result[(0, *box)] = index
    return result


def cube(start: int, stop: int, shift: int = 0) -> tuple[slice, ...]:
    return slice(start + shift, stop + shift), slice(start, stop), slice(start, stop)


def image(data: torch.Tensor, name: str = "x.nii.gz", spacing: tuple[float, ...] = (2.0, 3.0, 4.0)) -> MetaTensor:
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    return MetaTensor(data, affine=affine, meta={"filename_or_obj": name})


def run(handler: CaseMetrics, batches: list[list[dict]]) -> None:
    def step(engine: Engine, batch: list[dict]) -> list[dict]:
        return [{key: item[key] for key in ("pred", "label")} for item in batch]

    engine = Engine(step)
    handler.attach(engine)
    engine.run(batches, max_epochs=1)


def case(name: str, pred: torch.Tensor, label: torch.Tensor) -> dict:
    return {"case": name, "pred": image(pred), "label": image(label)}


def test_shifted_cubes_give_the_hand_computed_overlap() -> None:
    # two cubes of 4 x 4 x 4 voxels, one voxel apart along the first axis: 48 of 64 voxels are common
    metrics = compute_case_metrics(volume((1, cube(2, 6, 1))), volume((1, cube(2, 6))), 2, (2.0, 3.0, 4.0))
    assert len(metrics) == 1
    assert metrics[0].status == "ok"
    assert metrics[0].values["dice"] == pytest.approx(2 * 48 / 128)
    assert metrics[0].values["jaccard"] == pytest.approx(48 / 80)


def test_shifted_plates_give_the_hand_computed_distances() -> None:
    # single-voxel plates, 3 voxels of 2.5 mm apart: every surface voxel is 7.5 mm from the other plate
    label = volume((1, (slice(2, 3), slice(0, 5), slice(0, 5))))
    pred = volume((1, (slice(5, 6), slice(0, 5), slice(0, 5))))
    (metrics,) = compute_case_metrics(pred, label, 2, (2.5, 1.0, 0.5))
    assert metrics.values["dice"] == 0.0
    assert metrics.values["hd95_mm"] == pytest.approx(7.5)
    assert metrics.values["asd_mm"] == pytest.approx(7.5)


@pytest.mark.parametrize(("axis", "expected"), [(0, 2.0), (1, 3.0), (2, 4.0)])
def test_each_axis_has_its_own_spacing(axis: int, expected: float) -> None:
    # lines of 1 voxel; the label is 1 voxel away along one axis
    start, moved = [3, 3, 3], [3, 3, 3]
    moved[axis] += 1
    label, pred = volume(), volume()
    label[(0, *start)] = pred[(0, *moved)] = 1
    (metrics,) = compute_case_metrics(pred, label, 2, (2.0, 3.0, 4.0))
    assert metrics.values["hd95_mm"] == pytest.approx(expected)
    assert metrics.values["asd_mm"] == pytest.approx(expected)


def test_shifted_cubes_give_the_hand_computed_distances() -> None:
    # 3 x 3 x 3 cubes one voxel (2 mm) apart along axis 0; all 26 voxels but the center are surface. Of the label's 26,
    # the 9 of the far face are 2 mm from the other cube; 8 of the middle layer and 8 of the near layer lie on the
    # other's surface, and the center of the near layer, inside the other cube, is 2 mm (along axis 0) from it.
    (metrics,) = compute_case_metrics(volume((1, cube(2, 5, 1))), volume((1, cube(2, 5))), 2, (2.0, 3.0, 4.0))
    assert metrics.values["asd_mm"] == pytest.approx(2.0 * 10 / 26)
    assert metrics.values["hd95_mm"] == pytest.approx(2.0)
    # the percentile, not the maximum: a stray voxel 7 * 4 mm away is one of the 27 surface voxels of the prediction;
    # their sorted distances put the 95th percentile at position 0.95 * 26 = 24.7, between values that are both 0
    pred = volume((1, cube(2, 5)), (1, (slice(3, 4), slice(3, 4), slice(11, 12))))
    (stray,) = compute_case_metrics(pred, volume((1, cube(2, 5))), 2, (2.0, 3.0, 4.0))
    assert stray.values["hd95_mm"] == pytest.approx(0.0)
    assert stray.values["asd_mm"] == pytest.approx(28.0 / (27 + 26))


@pytest.mark.parametrize(
    ("pred", "label", "status"),
    [
        (volume(), volume((1, cube(2, 4))), "missed"),
        (volume((1, cube(2, 4))), volume(), "hallucinated"),
    ],
)
def test_one_sided_structures_get_zero_and_the_diagonal(pred: torch.Tensor, label: torch.Tensor, status: str) -> None:
    # 10 x 12 x 14 voxels of 2 x 0.5 x 1.5 mm: 20 x 6 x 21 mm, diagonal sqrt(400 + 36 + 441)
    (metrics,) = compute_case_metrics(pred, label, 2, (2.0, 0.5, 1.5))
    assert metrics.status == status
    assert (metrics.values["dice"], metrics.values["jaccard"]) == (0.0, 0.0)
    assert metrics.values["hd95_mm"] == metrics.values["asd_mm"] == pytest.approx(math.sqrt(877))


def test_an_absent_structure_has_no_number() -> None:
    (metrics,) = compute_case_metrics(volume(), volume(), 2, (1, 1, 1))
    assert metrics.status == "absent"
    assert all(
        math.isnan(value)
        for value in (
            metrics.values["dice"],
            metrics.values["jaccard"],
            metrics.values["hd95_mm"],
            metrics.values["asd_mm"],
        )
    )


def test_classes_are_separate_and_a_perfect_one_scores_one() -> None:
    label = volume((2, cube(1, 8)), (1, cube(3, 5)))
    metrics = compute_case_metrics(label.float(), label, 3, (1, 1, 1))
    assert [m.class_index for m in metrics] == [1, 2]
    assert [(m.values["dice"], m.values["jaccard"], m.values["hd95_mm"], m.values["asd_mm"]) for m in metrics] == [
        (1, 1, 0, 0)
    ] * 2


def test_2d_images_and_a_structure_that_fills_the_image() -> None:
    full = torch.ones(1, 5, 6)
    (metrics,) = compute_case_metrics(full, full, 2, (1.0, 2.0))
    assert (metrics.values["dice"], metrics.values["hd95_mm"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("pred", "label", "spacing", "message"),
    [
        (volume(), volume(shape=(10, 12, 15)), (1, 1, 1), r"must both be \(1, \*S\), got \(1, 10, 12, 14\)"),
        (torch.zeros(2, 4, 4), torch.zeros(2, 4, 4), (1, 1), r"must both be \(1, \*S\), got \(2, 4, 4\)"),
        (volume(), volume(), (1, 1), r"spacing must be 3 positive numbers, got \[1, 1\]"),
        (volume(), volume(), (1, 0, 1), r"spacing must be 3 positive numbers, got \[1, 0, 1\]"),
        (volume((3, cube(1, 2))), volume(), (1, 1, 1), "pred must hold class indices 0 to 1, got 3"),
        (volume(), volume().float() + 0.5, (1, 1, 1), "label must hold class indices 0 to 1, got 0.5"),
        (volume(), volume().float() * math.nan, (1, 1, 1), "label must hold class indices 0 to 1, got nan"),
    ],
)
def test_unusable_input_is_refused(
    pred: torch.Tensor, label: torch.Tensor, spacing: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compute_case_metrics(pred, label, 2, spacing)


def test_summary_leaves_absent_out_and_averages_classes_evenly() -> None:
    label = volume((1, cube(2, 6)))
    shifted, rim = volume((1, cube(2, 6, 1))), volume((1, cube(2, 6)), (2, cube(7, 9)))
    cases = [
        compute_case_metrics(shifted, label, 3, (1, 1, 1)),  # core 0.75, rim absent
        compute_case_metrics(label, rim, 3, (1, 1, 1)),  # core 1, rim missed
    ]
    summary = summarize(cases, LABELS)
    core, rim_entry = summary["classes"]
    assert core["dice"] == pytest.approx({"mean": 0.875, "std": math.sqrt(2) / 8, "n": 2})
    assert rim_entry["dice"] == {"mean": 0.0, "std": None, "n": 1}
    assert rim_entry["status_counts"] == {"ok": 0, "missed": 1, "hallucinated": 0, "absent": 1}
    assert summary["status_counts"] == {"ok": 2, "missed": 1, "hallucinated": 0, "absent": 1}
    # mean of the class means 0.875 and 0; the cases' own means are 0.75 and 0.5
    assert summary["overall"]["dice"] == pytest.approx({"mean": 0.4375, "std": math.sqrt(2) / 8, "n": 2})


def test_handler_writes_table_and_summary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    label = volume((1, cube(2, 6)))
    handler = CaseMetrics(tmp_path / "out", LABELS)
    batches = [
        [case("b", volume((1, cube(2, 6, 1))), label) | {"patient": "P 7"}],
        [case("a", volume((2, cube(2, 4))), volume())],
    ]
    with caplog.at_level(logging.INFO):
        run(handler, batches)
        run(handler, batches)  # a second evaluation starts from nothing
        run(CaseMetrics(tmp_path / "one", LABELS), batches[:1])
    rows = list(csv.reader((tmp_path / "out" / "metrics.csv").read_text().splitlines()))
    diagonal = f"{math.sqrt(20**2 + 36**2 + 56**2):.4f}"
    assert rows[0] == ["case", "patient", "class_index", "class_name", "dice", "jaccard", "hd95_mm", "asd_mm", "status"]
    assert rows[1] == ["a", "a", "1", "core", "", "", "", "", "absent"]
    assert rows[2][:6] == ["a", "a", "2", "rim", "0.000000", "0.000000"]
    assert [f"{float(value):.4f}" for value in rows[2][6:8]] == [diagonal, diagonal]
    assert rows[2][8] == "hallucinated"
    assert rows[3][:6] == ["b", "P 7", "1", "core", "0.750000", "0.600000"]
    assert rows[3][8] == "ok"
    assert [row[0] for row in rows[1:]] == ["a", "a", "b", "b"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    jsonschema.validate(summary, json.loads(SCHEMA.read_text()), cls=jsonschema.Draft202012Validator)
    assert summary["num_cases"] == 2
    assert summary["classes"][0]["dice"] == {"mean": 0.75, "std": None, "n": 1}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.csv", "summary.json"]
    assert "core" in caplog.text
    assert "Metrics of 2 cases" in caplog.text
    assert "Metrics of 1 case, in" in caplog.text


def test_schema_holds_for_no_cases_and_refuses_an_extra_key() -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    summary = summarize([], LABELS)
    jsonschema.validate(summary, schema)
    assert summary["overall"]["dice"] == {"mean": None, "std": None, "n": 0}
    with pytest.raises(jsonschema.ValidationError, match="'more' was unexpected"):
        jsonschema.validate({**summary, "more": 1}, schema)


class Copy(Inferer):
    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args, **kwargs) -> torch.Tensor:
        return inputs


def test_handler_with_a_monai_evaluator_names_cases_by_file(tmp_path: Path) -> None:
    data = [
        {
            "image": image(volume((1, cube(2, 6, 1))), f"/somewhere/case_{i}.nii.gz"),
            "label": image(volume((1, cube(2, 6)))),
        }
        for i in range(3)
    ]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=2, collate_fn=list_data_collate),
        network=torch.nn.Identity(),
        inferer=Copy(),
        val_handlers=[CaseMetrics(tmp_path, {0: "background", 1: "core"})],
    )
    evaluator.run()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == ["case_0", "case_1", "case_2"]
    assert {row["dice"] for row in rows} == {"0.750000"}


def test_handler_names_the_case_in_its_errors(tmp_path: Path) -> None:
    handler = CaseMetrics(tmp_path, LABELS)
    with pytest.raises(ValueError, match="case 'p7': pred must hold class indices 0 to 2, got 9"):
        run(handler, [[case("p7", volume((9, cube(1, 2))), volume())]])
    with pytest.raises(ValueError, match="case 'p7': label must be a MetaTensor"):
        run(handler, [[{"case": "p7", "pred": volume(), "label": volume()}]])
    other = {"case": "p7", "pred": image(volume(), spacing=(1, 1, 1)), "label": image(volume())}
    with pytest.raises(
        ValueError, match=r"must lie on one grid, got voxels of \[1.0, 1.0, 1.0\] and \[2.0, 3.0, 4.0\]"
    ):
        run(handler, [[other]])
    with pytest.raises(ValueError, match="two cases are called 'p7'"):
        run(handler, [[case("p7", volume(), volume())] * 2])
    with pytest.raises(ValueError, match="a case has no name"):
        run(handler, [[{"pred": image(volume()), "label": image(volume())}]])


@pytest.mark.parametrize("labels", [{0: "background"}, {0: "background", 2: "rim"}, {1: "core", 2: "rim"}])
def test_labels_with_a_gap_are_refused(labels: dict[int, str]) -> None:
    with pytest.raises(ValueError, match=r"labels must name the classes 0, 1, \.\.\. without a gap"):
        CaseMetrics("out", labels)


def _evaluate_share(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    names = [["a", "c"], ["b", "a"]][rank]  # the sampler repeats case a on the second process
    run(CaseMetrics(f"{folder}/out", LABELS), [[case(name, volume(), volume())] for name in names])
    dist.destroy_process_group()


def test_the_first_process_writes_the_rows_of_all(tmp_path: Path) -> None:
    run_group(_evaluate_share, 2, str(tmp_path))
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == ["a", "a", "b", "b", "c", "c"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["num_cases"] == 3
