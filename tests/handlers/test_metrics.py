"""Metrics: one record each that files and pages follow from, the score that selects weights, and surface distances.

HD95 and ASD are compared with closed forms, and with an own computation by distance transforms.
"""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from jsonschema import Draft202012Validator
from monai.data import MetaTensor
from scipy import ndimage
from support.processes import run_group
from support.report_parts import CASES, class_metrics, evaluate

from scripts.comparison.results import RunResult, cases_csv, read_result
from vqseg_bundle.handlers import CaseMetrics, MeanCaseDice
from vqseg_bundle.handlers.metrics import (
    METRICS,
    ClassMetrics,
    Metric,
    StructurePair,
    compute_case_metrics,
    compute_class_dice,
)

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


Spacing = tuple[float, ...]


SPACINGS: list[Spacing] = [(1.0, 1.0, 1.0), (0.5, 2.0, 5.0), (3.0, 0.25, 1.0)]


def surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask, ndimage.generate_binary_structure(mask.ndim, 1), border_value=0)


def reference(pred: np.ndarray, label: np.ndarray, spacing: Spacing) -> tuple[float, float]:
    """HD95 and ASD, by a distance transform of each surface; axes of one voxel are left out."""
    axes = [axis for axis, count in enumerate(pred.shape) if count > 1]
    first, second = surface(pred.squeeze()), surface(label.squeeze())
    sampling = [spacing[axis] for axis in axes]
    there = ndimage.distance_transform_edt(~second, sampling=sampling)[first]
    back = ndimage.distance_transform_edt(~first, sampling=sampling)[second]
    return max(np.percentile(there, 95), np.percentile(back, 95)), np.concatenate([there, back]).mean()


def measure(pred: np.ndarray, label: np.ndarray, spacing: Spacing) -> ClassMetrics:
    maps = (torch.from_numpy(mask[None].astype(np.uint8)) for mask in (pred, label))
    (metrics,) = compute_case_metrics(*maps, 2, spacing)
    return metrics


def ellipsoid(shape: tuple[int, ...], spacing: Spacing, semi_axes: Spacing) -> np.ndarray:
    """All voxels whose centers lie within an ellipsoid (mm) about the image's middle voxel."""
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij")
    parts = [
        ((index - count // 2) * size / axis) ** 2
        for index, count, size, axis in zip(grid, shape, spacing, semi_axes, strict=True)
    ]
    return np.sum(parts, axis=0) <= 1


def test_ignored_voxels_change_no_metric() -> None:
    """A square of 4 x 4 predicted as one of 4 x 6; what lies beyond the sixth column nobody has labelled."""
    label, pred = (torch.zeros(1, 10, 12, 1, dtype=torch.int64) for _ in range(2))
    label[0, 2:6, :4], pred[0, 2:6, :6] = 1, 1
    expected = compute_case_metrics(pred, label, 2, (1.0, 1.0, 1.0))
    label[0, :, 6:], pred[0, 1:9, 6:] = 2, 1
    assert compute_case_metrics(pred, label, 2, (1.0, 1.0, 1.0)) == expected
    assert compute_class_dice(pred, label, 2) == pytest.approx([2 * 16 / (16 + 24)])
    assert expected[0].values["dice"] == pytest.approx(0.8)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thickness", [1.0, 5.0])
def test_discs_of_one_slice_are_measured_in_their_plane(axis: int, thickness: float):
    y, x = np.mgrid[:128, :128]
    inner, outer = ((y - 64) ** 2 + (x - 64) ** 2 < radius**2 for radius in (30, 40))
    spacing = [1.0, 1.0]
    spacing.insert(axis, thickness)
    volume = measure(np.expand_dims(inner, axis), np.expand_dims(outer, axis), tuple(spacing))
    assert (volume.values["hd95_mm"], volume.values["asd_mm"]) == pytest.approx((10.198, 9.854), abs=5e-4)
    assert volume == measure(inner, outer, (1.0, 1.0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_missed_structure_of_one_slice_costs_the_diagonal_of_its_plane(axis: int):
    plane = np.zeros((30, 40), bool)
    plane[3, 4] = True
    spacing = [1.0, 1.0]
    spacing.insert(axis, 700.0)
    label = np.expand_dims(plane, axis)
    missed = measure(np.zeros_like(label), label, tuple(spacing))
    assert (missed.status, missed.values["hd95_mm"], missed.values["asd_mm"]) == ("missed", 50.0, 50.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0), (1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
def test_concentric_balls_are_as_far_apart_as_their_radii(spacing: Spacing):
    shape = tuple(int(2 * 18 / size) + 3 for size in spacing)
    inner, outer = (ellipsoid(shape, spacing, (radius,) * len(shape)) for radius in (10.0, 16.0))
    found = measure(inner, outer, spacing)
    assert found.values["hd95_mm"] == pytest.approx(6.0, abs=max(spacing))
    assert found.values["asd_mm"] == pytest.approx(6.0, abs=max(spacing))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
def test_concentric_ellipsoids_are_apart_by_the_growth_of_their_axes(spacing: Spacing):
    # each semi-axis grows by a quarter: by 2, 3 and 4 mm; no point of either surface is further from the other
    axes = (8.0, 12.0, 16.0)
    shape = tuple(int(2.5 * axis / size) + 5 for axis, size in zip(axes, spacing, strict=True))
    inner, outer = (ellipsoid(shape, spacing, tuple(scale * axis for axis in axes)) for scale in (1.0, 1.25))
    found = measure(inner, outer, spacing)
    assert 3.0 - max(spacing) / 2 < found.values["hd95_mm"] < 4.0 + max(spacing)
    assert 2.0 < found.values["asd_mm"] < 4.0
    assert (found.values["hd95_mm"], found.values["asd_mm"]) == pytest.approx(
        reference(inner, outer, spacing), rel=1e-5
    )


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("side", ["first", "last"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_the_image_cuts_off_is_surface(spacing: Spacing, side: str, axis: int):
    # halves of concentric balls, cut by the image's border: the discs where they are cut count on both surfaces
    balls = [ellipsoid((21, 21, 21), (1.0, 1.0, 1.0), (radius,) * 3) for radius in (4.0, 8.0)]
    half = [slice(None)] * 3
    half[axis] = slice(10, None) if side == "first" else slice(None, 11)
    inner, outer = (ball[tuple(half)] for ball in balls)
    found = measure(inner, outer, spacing)
    assert (found.values["hd95_mm"], found.values["asd_mm"]) == pytest.approx(
        reference(inner, outer, spacing), rel=1e-5
    )
    # one voxel layer of nothing around changes nothing
    assert found == measure(np.pad(inner, 1), np.pad(outer, 1), spacing)


SHAPES = [(9, 7), (6, 5, 4), (1, 6, 7), (6, 1, 7), (6, 7, 1), (1, 1, 8), (8, 1, 1), (2, 9, 9), (1, 12), (40, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_masks_have_the_distances_of_an_own_transform(shape: tuple[int, ...]):
    rng = np.random.default_rng(list(shape))
    for spacing, shares in itertools.product(SPACINGS, itertools.product((0.0, 0.3, 0.9), repeat=2)):
        masks = [rng.random(shape) < share for share in shares]
        for mask in masks:  # at the least, one voxel anywhere, borders and corners included
            mask.flat[rng.integers(mask.size)] = True
        found = measure(*masks, spacing[: len(shape)])
        expected = reference(*masks, spacing[: len(shape)])
        assert (found.values["hd95_mm"], found.values["asd_mm"]) == pytest.approx(expected, rel=1e-5)


def test_a_single_voxel_is_its_own_surface():
    voxel = np.ones((1, 1, 1), bool)
    assert measure(voxel, voxel, (1.0, 2.0, 3.0)) == class_metrics(1, "ok", 1.0, 1.0, 0.0, 0.0)
    apart = measure(np.array([[[True, False]]]), np.array([[[False, True]]]), (1.0, 2.0, 3.0))
    assert (apart.values["hd95_mm"], apart.values["asd_mm"]) == (3.0, 3.0)
