"""What a run moves aside of an earlier one in its output folder, and what of the user's it leaves there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from support.bundle_runs import TINY, Trained, keys_of, read_json, run_here

from vqseg_bundle.bundle import prepare_output_dir
from vqseg_bundle.bundle.records.moved_files import EVALUATION_OUTPUTS
from vqseg_bundle.bundle.records.run_record import put_aside

EVALUATION = ("train.json", "evaluate.json")
#: names like a run's own, which the user chose
USERS = {
    *("evaluation_data/images/a.nii.gz", "evaluation_list.json", "evaluation/notes.txt", "inference/notes.txt"),
    *("dinov2.pt", "my_config.json", "dry_run.json", "metrics_paper.csv", "summary_paper.json", "my.log", "logs/a"),
}


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_names_like_a_runs_own_stay(tmp_path: Path) -> None:
    evaluation = {"evaluation.log", "evaluation_run.json", "report.html", "evaluation/predictions/a_pred.nii.gz"}
    fill(tmp_path, *USERS, *evaluation)
    moved = put_aside(tmp_path, EVALUATION_OUTPUTS)
    assert moved is not None
    assert files(moved) == evaluation
    training = {"model.pt", "resume.previous.pt", "resumed_config.json", "training.log", "inference/predictions/a.nii"}
    fill(tmp_path, *training)
    later = prepare_output_dir(tmp_path, resume=False)
    assert later is not None
    assert files(later) == training
    assert {name for name in files(tmp_path) if not name.startswith("previous-")} == USERS


def test_weights_of_another_program_are_no_earlier_run(tmp_path: Path) -> None:
    fill(tmp_path, "dinov2.pt", "config.json")
    assert prepare_output_dir(tmp_path, resume=False) is None
    assert files(tmp_path) == {"dinov2.pt", "config.json"}


@pytest.mark.parametrize(
    ("key", "name", "holder"),
    [("plan_file", "plan.json", "plan.json"), ("dataset_dir", "predictions/scans", "predictions")],
)
def test_an_input_is_not_moved(tmp_path: Path, key: str, name: str, holder: str) -> None:
    fill(tmp_path, "model.pt", "plan.json", "predictions/scans/a.nii.gz")
    before = files(tmp_path)
    message = (
        f"output_dir {tmp_path}: expected no input among an earlier run's files there, which would move to "
        f"previous-<time>/, found {key} {tmp_path / name} in {tmp_path / holder}. Name another output_dir, or move the "
        "input out of it and name its new place. Nothing was moved."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        prepare_output_dir(tmp_path, resume=False, inputs=[(key, str(tmp_path / name))])
    assert files(tmp_path) == before


def test_an_evaluation_beside_its_data_leaves_them(evaluated: Trained, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(evaluated.cohort.root, study / "evaluation_data")
    datalist = study / "evaluation_list.json"
    shutil.move(study / "evaluation_data" / "datalist.json", datalist)
    before = files(study)
    keys = {
        "dataset_dir": str(study / "evaluation_data"),
        "datalist": str(datalist),
        "output_dir": str(study),
        "checkpoint": str(evaluated.output_dir / "model.pt"),
        "device": "cpu",
    }
    for _ in range(2):
        run_here("evaluating", *EVALUATION, **keys)
    assert before <= files(study)
    assert read_json(study / "summary.json") == read_json(evaluated.output_dir / "summary.json")
    assert len(list(study.glob("previous-*/summary.json"))) == 1


def test_images_among_the_predictions_are_no_evaluations_to_move(evaluated: Trained, tmp_path: Path) -> None:
    shutil.copytree(evaluated.cohort.root, tmp_path / "predictions")
    datalist = tmp_path / "list.json"
    content = json.loads((tmp_path / "predictions" / "datalist.json").read_text())
    for case in (case for split in ("training", "unlabeled", "validation", "test") for case in content.get(split, [])):
        case.update({key: f"predictions/{case[key]}" for key in ("image", "label") if key in case})
    datalist.write_text(json.dumps(content))
    before = files(tmp_path)
    keys = {"dataset_dir": str(tmp_path), "datalist": str(datalist), "output_dir": str(tmp_path), "device": "cpu"}
    keys["checkpoint"] = str(evaluated.output_dir / "model.pt")
    with pytest.raises(SystemExit, match=rf"found image {tmp_path}/predictions/\S+ in {tmp_path}/predictions\. Name"):
        run_here("evaluating", *EVALUATION, **keys)
    assert before <= files(tmp_path)


def test_a_training_does_not_move_the_weights_it_begins_with(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained.output_dir, out)
    keys = {**keys_of(trained.cohort, out, **TINY), "initial_weights": str(out / "model.pt")}
    message = rf"found initial_weights {out}/model\.pt in {out}/model\.pt\. Name another output_dir"
    with pytest.raises(SystemExit, match=message):
        run_here("training", "train.json", **keys)
    assert (out / "model.pt").read_bytes() == (trained.output_dir / "model.pt").read_bytes()
