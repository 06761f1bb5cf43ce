"""Postprocessing that the validation of a training chose, in evaluation and inference."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from support.bundle_runs import Trained, refused, run_here

from vqseg_bundle.bundle import KeepChosenComponentsd
from vqseg_bundle.handlers import keep_largest_components


@pytest.fixture
def cleaned(trained: Trained, tmp_path: Path) -> Path:
    """The trained model, with all classes chosen."""
    return choose(trained, tmp_path / "cleaned", [1, 2])


def choose(trained: Trained, folder: Path, classes: list[Any]) -> Path:
    folder.mkdir()
    shutil.copy(trained.output_dir / "model.pt", folder)
    record = json.loads((trained.output_dir / "model.json").read_text())
    record["postprocessing"] = {"largest_component": classes}
    (folder / "model.json").write_text(json.dumps(record))
    return folder / "model.pt"


def predictions(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))}


def test_a_training_records_the_choice_of_its_best_validation(trained: Trained) -> None:
    section = json.loads((trained.output_dir / "model.json").read_text())["postprocessing"]
    assert set(section["largest_component"]) <= {1, 2}
    assert [int(index) for index in section["validation_dice_gain"]] == section["largest_component"]
    assert all(gain > 0 for gain in section["validation_dice_gain"].values())


@pytest.mark.parametrize("command", [("inference", "inference.json"), ("evaluating", "train.json", "evaluate.json")])
def test_what_was_chosen_is_removed_unless_the_key_says_no(
    trained: Trained, cleaned: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    is_inference = command[0] == "inference"
    data = trained.cohort.root / "images" if is_inference else trained.cohort.root
    given = {"dataset_dir": str(data), "checkpoint": str(cleaned), "device": "cpu", "dicom_seg": False}
    if not is_inference:
        given.pop("dicom_seg")
    run_here(*command, **given, output_dir=str(tmp_path / "kept"), largest_component=[])
    run_here(*command, **given, output_dir=str(tmp_path / "chosen"))
    kept, chosen = predictions(tmp_path / "kept" / "predictions"), predictions(tmp_path / "chosen" / "predictions")
    assert kept.keys() == chosen.keys()
    assert kept
    for name, before in kept.items():
        expected = keep_largest_components(torch.from_numpy(before.astype(np.int64))[None], 3)[0]
        np.testing.assert_array_equal(chosen[name], expected.numpy())
    assert any((kept[name] != chosen[name]).any() for name in kept)


def test_a_record_that_chooses_no_class_of_its_own_is_refused(trained: Trained, tmp_path: Path) -> None:
    checkpoint = choose(trained, tmp_path / "odd", [0, 7])
    message = r"model\.json: key 'largest_component' of 'postprocessing' must list foreground classes.*got \[0, 7\]"
    given = {"dataset_dir": str(trained.cohort.root), "checkpoint": str(checkpoint), "device": "cpu"}
    refused(tmp_path / "out", message, "inference", "inference.json", **given)


@pytest.mark.parametrize("command", [("inference", "inference.json"), ("evaluating", "train.json", "evaluate.json")])
def test_a_key_that_names_no_class_of_the_model_is_refused_before_anything_is_written(
    trained: Trained, tmp_path: Path, command: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    (out / "predictions").mkdir(parents=True)
    (out / "metrics.csv").touch()
    data = trained.cohort.root / "images" if command[0] == "inference" else trained.cohort.root
    given = {"dataset_dir": str(data), "checkpoint": str(trained.output_dir / "model.pt")}
    for classes in ([9], [0], [1, -1], 1, "shell", ["shell"], [True]):
        message = (
            r"--largest_component: expected a list of the model's foreground classes, out of 1 \(shell\), 2 \(core\), "
            rf'found {re.escape(repr(classes))}\. Name them by index, such as "\[1\]"; "\[\]" keeps every component'
        )
        refused(out, message, *command, **given, largest_component=classes)
    assert sorted(path.name for path in out.rglob("*")) == ["metrics.csv", "predictions"]


def test_a_choice_that_a_later_training_changes_is_followed_without_a_new_start(cleaned: Path) -> None:
    transform = KeepChosenComponentsd("pred", classes=None, checkpoint=str(cleaned))
    one = torch.zeros(1, 4, 4, dtype=torch.int64)
    one[0, 0, :2] = one[0, 3, 3] = 1
    assert (transform({"pred": one.clone()})["pred"] == 1).sum() == 2
    record = json.loads(cleaned.with_suffix(".json").read_text())
    del record["postprocessing"]
    cleaned.with_suffix(".json").write_text(json.dumps(record))
    assert (transform({"pred": one.clone()})["pred"] == 1).sum() == 3
