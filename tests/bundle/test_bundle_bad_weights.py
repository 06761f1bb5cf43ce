"""Weights, splits and folders that evaluation and inference refuse before the first case."""

from __future__ import annotations

import builtins
import errno
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from support.bundle_runs import CohortFolder, Trained, refused, run_here

from vqseg_bundle.bundle import load_model_record, open_model_record
from vqseg_bundle.handlers import read_checkpoint

EVALUATION = ("train.json", "evaluate.json")


@pytest.fixture
def other(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the weights and their record, to be changed."""
    folder = tmp_path / "trained"
    folder.mkdir()
    for name in ("model.pt", "model.json"):
        shutil.copy(trained.output_dir / name, folder)
    return folder


def edit_record(folder: Path, section: str, **values: Any) -> None:
    record = json.loads((folder / "model.json").read_text())
    record[section].update(values)
    (folder / "model.json").write_text(json.dumps(record))


@pytest.mark.parametrize("command", [("evaluating", *EVALUATION), ("inference", "inference.json")], ids=lambda c: c[0])
def test_a_training_that_was_interrupted_before_it_had_weights_is_named(
    command: tuple[str, ...], shared_cohort: CohortFolder, tmp_path: Path
) -> None:
    out = tmp_path / "begun"
    out.mkdir()
    (out / "resume.pt").touch()
    message = r"output_dir .*begun: its training was interrupted before it had weights to use .* by --resume true"
    places = {"dataset_dir": str(shared_cohort.root), "output_dir": str(out)}
    with pytest.raises(SystemExit, match=message):
        run_here(*command, **places)
    assert [path.name for path in out.iterdir()] == ["resume.pt"]


@pytest.mark.parametrize("command", [("evaluating", *EVALUATION), ("inference", "inference.json")], ids=lambda c: c[0])
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"channels": [8, 8, 16]}, r"model\.pt: these weights belong to another VQSegNet: .* of another shape"),
        ({"num_embeddings": None}, r"model\.pt: these weights belong to another VQSegNet: .* unexpected"),
        ({"colour": 3}, r"model\.json of .*key 'network': .*unexpected keyword argument 'colour'"),
        ({"strides": [2]}, r"model\.json of .*key 'network': strides must hold one entry between"),
    ],
)
def test_weights_of_another_network_are_refused(
    trained: Trained, other: Path, tmp_path: Path, command: tuple[str, ...], arguments: dict[str, Any], message: str
) -> None:
    edit_record(other, "network", **arguments)
    places = {"dataset_dir": str(trained.cohort.root), "checkpoint": str(other / "model.pt")}
    refused(tmp_path / "out", message, *command, **places)


def test_weights_without_a_record_and_files_that_hold_none_are_refused(
    trained: Trained, other: Path, tmp_path: Path
) -> None:
    places = {"dataset_dir": str(trained.cohort.root), "checkpoint": str(other / "model.pt")}
    (other / "model.pt").write_bytes(b"no weights")
    refused(tmp_path / "out", r"model\.pt: ", "inference", "inference.json", **places)
    (other / "model.json").unlink()
    message = r"model\.json not found: model\.pt cannot be used without the record"
    refused(tmp_path / "out", message, "inference", "inference.json", **places)
    places["checkpoint"] = str(other / "typo.pt")
    folder = str(trained.output_dir)
    message = rf"checkpoint '{folder}' is not a file: give {folder}/model\.pt, which is in it"
    refused(tmp_path / "out", message, "inference", "inference.json", checkpoint=folder)
    message = r"checkpoint '.*typo\.pt' is not a file"
    refused(tmp_path / "out", message, "evaluating", *EVALUATION, **places)


@pytest.mark.parametrize("command", [("evaluating", *EVALUATION), ("inference", "inference.json")], ids=lambda c: c[0])
@pytest.mark.parametrize("name", ["model.json", "model.pt"])
def test_weights_and_records_that_may_not_be_read_are_named_as_such(
    trained: Trained, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], name: str
) -> None:
    """Root, who may run the tests, may read all."""
    opens = io.open

    def refuse(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file) == str(other / name):
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return opens(file, *arguments, **options)

    for module in (io, builtins):  # pathlib's, and that of torch and zipfile
        monkeypatch.setattr(module, "open", refuse)
    places = {"dataset_dir": str(trained.cohort.root), "checkpoint": str(other / "model.pt")}
    message = rf"^{re.escape(str(other / name))}: cannot be read \(Permission denied\); change its permissions\.$"
    refused(tmp_path / "out", message, *command, **places)
    with pytest.raises(ValueError, match=message):
        load_model_record(other / "model.pt") if name == "model.json" else read_checkpoint(other / name)


def test_weights_in_a_folder_that_may_not_be_entered_are_refused(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", str(other / "model.pt"))
    monkeypatch.setattr(Path, "is_file", mock.Mock(side_effect=error))
    with pytest.raises(SystemExit, match=r"model\.pt: cannot be read \(Permission denied\); change its permissions"):
        open_model_record(str(other / "model.pt"), None, str(tmp_path))


def test_an_evaluation_with_other_labels_is_refused(cohort: CohortFolder, trained: Trained, tmp_path: Path) -> None:
    cohort.datalist["labels"] = {"0": "background", "1": "core", "2": "shell"}
    cohort.save()
    places = {"dataset_dir": str(cohort.root), "checkpoint": str(trained.output_dir / "model.pt")}
    message = r"(?s)does not fit the configuration.*labels#1: weights shell, configuration core"
    refused(tmp_path / "out", message, "evaluating", *EVALUATION, **places)


def test_an_evaluation_split_needs_labels(cohort: CohortFolder, trained: Trained, tmp_path: Path) -> None:
    for entry in cohort.datalist["test"]:
        del entry["label"]
    cohort.datalist["validation"] = []
    cohort.save()
    places = {"dataset_dir": str(cohort.root), "checkpoint": str(trained.output_dir / "model.pt")}
    message = r'datalist\.json: evaluation_split is "test", of which none of 2 cases has a label; list labelled'
    refused(tmp_path / "out", message, "evaluating", *EVALUATION, **places)
    message = r'evaluation_split is "validation", which is empty'
    refused(tmp_path / "out", message, "evaluating", *EVALUATION, **places, evaluation_split="validation")
    message = r"--evaluation_split: expected test or validation, found 'training'\."
    refused(tmp_path / "out", message, "evaluating", *EVALUATION, **places, evaluation_split="training")


def test_cases_without_label_are_left_out_of_an_evaluation(
    cohort: CohortFolder, trained: Trained, tmp_path: Path
) -> None:
    del cohort.datalist["test"][1]["label"]
    cohort.save()
    places = {"dataset_dir": str(cohort.root), "output_dir": str(tmp_path), "device": "cpu"}
    run_here("evaluating", *EVALUATION, **places, checkpoint=str(trained.output_dir / "model.pt"))
    assert json.loads((tmp_path / "summary.json").read_text())["num_cases"] == 1
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["case_5_pred.nii.gz"]
    log = (tmp_path / "evaluation.log").read_text()
    assert 'evaluation_split is "test", of which 1 case has no label and cannot be evaluated' in log
    assert "turned.nii.gz; label it; to segment it all the same, use configs/inference.json" in log
    assert "1, and 1 without a label left out" in (tmp_path / "report.html").read_text()


def test_inference_refuses_a_folder_without_volumes(trained: Trained, tmp_path: Path) -> None:
    checkpoint = str(trained.output_dir / "model.pt")
    (tmp_path / "empty").mkdir()
    command = ("inference", "inference.json")
    for places, message in (
        (
            {"dataset_dir": str(tmp_path / "empty")},
            r"empty' holds no volume to segment: expected files that end in \.nii",
        ),
        ({"dataset_dir": "nowhere"}, r"dataset_dir 'nowhere' is neither a folder nor a file"),
        ({}, r"dataset_dir is not given: name a folder of volumes"),
    ):
        refused(tmp_path / "out", message, *command, **places, checkpoint=checkpoint)
