"""Evaluation by the command that a user types: tables, predictions and what it says."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from support.bundle_runs import LABELS, ROOT, TINY, Trained, keys_of, read_json, run_here

EVALUATION = ("train.json", "evaluate.json")


def test_an_evaluation_ends_by_its_score_and_the_commands_left(evaluated: Trained) -> None:
    out = evaluated.output_dir
    record, summary = read_json(out / "evaluation_run.json"), read_json(out / "summary.json")
    dice = summary["overall"]["dice"]["mean"]
    assert record["result"]["cases"] == 2
    assert record["result"]["dice"] == dice
    assert f"to look at: {out}/report.html" in evaluated.result.stdout
    assert re.search(rf"evaluated 2 cases in .*: dice {dice:.3f}, jaccard ", evaluated.result.stdout)
    assert record["next"] == read_json(out / "run.json")["next"][1:]


def test_evaluation_writes_metrics_that_follow_the_schema(evaluated: Trained) -> None:
    with (evaluated.output_dir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ["case", "patient", "class_index", "class_name", "dice", "jaccard", "hd95_mm", "asd_mm", "status"]
    assert list(rows[0]) == columns
    assert [(row["case"], row["class_index"], row["class_name"]) for row in rows] == [
        (case, index, LABELS[index]) for case in ("case_5", "turned") for index in ("1", "2")
    ]
    summary = read_json(evaluated.output_dir / "summary.json")
    assert not list(Draft202012Validator(read_json(ROOT / "docs" / "summary.schema.json")).iter_errors(summary))
    assert summary["num_cases"] == 2
    means = [np.mean([float(row["dice"]) for row in rows if row["class_index"] == index]) for index in ("1", "2")]
    assert summary["overall"]["dice"]["mean"] == pytest.approx(np.mean(means), abs=1e-5)


def test_evaluation_keeps_the_records_of_the_training(evaluated: Trained) -> None:
    assert read_json(evaluated.output_dir / "config.json")["max_iterations"] == 6
    assert "evaluating" in read_json(evaluated.output_dir / "evaluation_run.json")["command"]
    assert "Metrics of 2 cases" in (evaluated.output_dir / "evaluation.log").read_text()


@pytest.mark.parametrize("case", ["case_5", "turned"])
def test_predictions_lie_on_the_grid_of_their_image(evaluated: Trained, case: str) -> None:
    image = nib.load(evaluated.cohort.root / "images" / f"{case}.nii.gz")
    prediction = nib.load(evaluated.output_dir / "predictions" / f"{case}_pred.nii.gz")
    assert prediction.shape == image.shape
    np.testing.assert_allclose(prediction.affine, image.affine, atol=1e-5)
    assert set(np.unique(np.asanyarray(prediction.dataobj))) <= {0, 1, 2}


def test_dice_in_the_table_is_that_of_the_saved_prediction(evaluated: Trained) -> None:
    with (evaluated.output_dir / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["case"] == "turned"]
    label = np.asanyarray(nib.load(evaluated.cohort.root / "labels" / "turned.nii.gz").dataobj)
    path = evaluated.output_dir / "predictions" / "turned_pred.nii.gz"
    prediction = np.asanyarray(nib.load(path).dataobj)
    for row in rows:
        ours, theirs = prediction == int(row["class_index"]), label == int(row["class_index"])
        assert float(row["dice"]) == pytest.approx(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()), abs=1e-5)


def test_the_validation_split_can_be_evaluated_with_a_loader_process(trained: Trained, tmp_path: Path) -> None:
    """Also where Python starts processes from a server, by which MONAI's inverse transforms do not work."""
    checkpoint = str(trained.output_dir / "model.pt")
    settings = keys_of(trained.cohort, tmp_path, evaluation_split="validation", checkpoint=checkpoint)
    started = torch.multiprocessing.get_start_method(allow_none=True)
    torch.multiprocessing.set_start_method("forkserver", force=True)
    try:
        run_here("evaluating", *EVALUATION, **settings, num_workers=1)
    finally:
        torch.multiprocessing.set_start_method(started, force=True)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert {row["case"] for row in csv.DictReader(file)} == {"case_4"}


def test_an_evaluation_tells_what_is_left_with_other_codes(evaluated: Trained, tmp_path: Path) -> None:
    places = keys_of(evaluated.cohort, tmp_path / "out", checkpoint=str(evaluated.output_dir / "model.pt"))
    parser = run_here("evaluating", *EVALUATION, **places, code_reliance=True)
    metrics = parser.get_parsed_content("validate#evaluator").state.metrics
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for name, title in (("dice_other_codes", "With another case&#39;s codes"), ("dice_without_skips", "Without skip")):
        assert 0.0 <= metrics[name] <= 1.0
        assert title in page
        assert f"mean Dice {metrics[name]:.3f}" in page
    assert read_json(tmp_path / "out" / "summary.json") == read_json(evaluated.output_dir / "summary.json")
    assert "With another" not in (evaluated.output_dir / "report.html").read_text(encoding="utf-8")


def test_a_second_evaluation_and_inference_put_the_first_ones_results_aside(evaluated: Trained, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    shutil.copytree(evaluated.output_dir, output_dir)
    first = read_json(output_dir / "summary.json")
    run_here("evaluating", *EVALUATION, **keys_of(evaluated.cohort, output_dir, evaluation_split="validation"))
    (aside,) = output_dir.glob("previous-*")
    assert read_json(aside / "summary.json") == first != read_json(output_dir / "summary.json")
    assert list((aside / "predictions").rglob("*.nii.gz"))
    assert (aside / "report.html").is_file()
    assert (output_dir / "model.pt").is_file()
    volumes = {"dataset_dir": str(evaluated.cohort.root / "images"), "output_dir": str(output_dir), "device": "cpu"}
    evaluations = {path.name: path.read_bytes() for path in (output_dir / "predictions").iterdir()}
    for _ in range(2):
        run_here("run", "inference.json", **volumes)
        assert {path.name: path.read_bytes() for path in (output_dir / "predictions").iterdir()} == evaluations
        assert (output_dir / "inference" / "predictions" / "case_5_pred.nii.gz").is_file()
    (later,) = (output_dir / "inference").glob("previous-*")
    assert (later / "predictions" / "case_5_pred.nii.gz").is_file()
    assert list(output_dir.glob("previous-*")) == [aside]


def test_an_evaluation_moves_aside_when_a_resumed_training_replaces_its_weights(
    evaluated: Trained, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(evaluated.output_dir, out)
    (out / "inference" / "predictions").mkdir(parents=True)
    written = {"metrics.csv", "summary.json", "report.html", "predictions"}
    written |= {f"evaluation{part}" for part in (".log", "_config.json", "_run.json")}
    assert written <= {path.name for path in out.iterdir()}
    settings = keys_of(evaluated.cohort, out, **TINY, resume=True)
    run_here("training", "train.json", **settings)  # at its end already
    longer = {**settings, "max_iterations": 7}
    with pytest.raises(SystemExit, match=r"max_iterations: 6, now 7\n.*accept these by --resume_changed true\.$"):
        run_here("training", "train.json", **longer)
    assert written <= {path.name for path in out.iterdir()}
    run_here("training", "train.json", **longer, resume_changed=True)
    (aside,) = out.glob("previous-*")
    assert {path.name for path in aside.iterdir()} == written
    assert not written & {path.name for path in out.iterdir()}
    assert (out / "inference" / "predictions").is_dir()
    log = (out / "training.log").read_text()
    assert f"{aside} has an evaluation of the weights before this training goes on" in log
