"""Splits that a file gives: ``vqseg data --split-file``, as published for ACDC."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.bundle_runs import ROOT
from support.datalist_parts import patients, refused, run, save

from vqseg_bundle.commands.data import main


@pytest.fixture
def acdc(tmp_path: Path) -> Path:
    """Ten patients of two frames, a split file of seven, two held out, and one that it does not list."""
    for i in range(10):
        for frame in ("01", "12"):
            stem = tmp_path / f"patient{i:03d}/patient{i:03d}_frame{frame}"
            save(stem.with_name(f"{stem.name}.nii.gz"), 100 * i + int(frame))
            save(stem.with_name(f"{stem.name}_gt.nii.gz"), i, classes=4)
        save(tmp_path / f"patient{i:03d}/patient{i:03d}_4d.nii.gz", i)
    split = {
        "source": "text",
        "training": [f"patient{i:03d}" for i in range(7)],
        "validation": ["patient008", "patient007"],
        "labeled_5_percent": ["patient005", "patient001"],
        "labeled_10_percent": ["patient005", "patient001", "patient003"],
    }
    (tmp_path / "split.json").write_text(json.dumps(split))
    return tmp_path


def test_split_file_gives_the_first_of_its_labeled_list(acdc: Path):
    split = str(acdc / "split.json")
    datalist = run(acdc, "--split-file", split, "--labeled-count", "2")
    assert patients(datalist, "training") == ["patient001", "patient005"]
    assert patients(datalist, "unlabeled") == ["patient000", "patient002", "patient003", "patient004", "patient006"]
    assert patients(datalist, "test") == ["patient007", "patient008"]
    assert datalist["validation"] == []
    assert len(datalist["training"]) == 4
    assert datalist["test"][0] == {
        "image": "patient007/patient007_frame01.nii.gz",
        "label": "patient007/patient007_frame01_gt.nii.gz",
        "patient": "patient007",
    }
    assert patients(run(acdc, "--split-file", split, "--labeled-count", "1"), "training") == ["patient005"]
    three = ["patient001", "patient003", "patient005"]
    assert patients(run(acdc, "--split-file", split, "--labeled-count", "3"), "training") == three
    assert patients(run(acdc, "--split-file", split, "--labeled-share", "0.43"), "training") == three
    four = patients(run(acdc, "--split-file", split, "--labeled-count", "4"), "training")
    assert len(four) == 4
    assert set(three) < set(four)


def test_split_file_validation_may_stay_validation(acdc: Path):
    datalist = run(acdc, "--split-file", str(acdc / "split.json"), "--split-file-validation-as", "validation")
    assert patients(datalist, "validation") == ["patient007", "patient008"]
    assert datalist["test"] == []


def test_tuning_patients_leave_unlabeled_and_become_validation(acdc: Path):
    options = ("--split-file", str(acdc / "split.json"), "--labeled-count", "2")
    full, tuned = run(acdc, *options), run(acdc, *options, "--tuning-count", "3", "--seed", "4")
    assert len(patients(tuned, "validation")) == 3
    assert set(patients(tuned, "validation")) | set(patients(tuned, "unlabeled")) == set(patients(full, "unlabeled"))
    assert not set(patients(tuned, "validation")) & set(patients(tuned, "unlabeled"))
    assert all("label" in entry for entry in tuned["validation"])
    assert tuned["training"] == full["training"]
    assert tuned["test"] == full["test"]
    other = run(acdc, *options, "--tuning-count", "3", "--seed", "5")
    assert patients(other, "validation") != patients(tuned, "validation")


def test_summary_counts_patients_cases_and_what_is_left_out(acdc: Path, capsys: pytest.CaptureFixture):
    run(acdc, "--split-file", str(acdc / "split.json"), "--labeled-count", "2", "--labels", "background,a,b,c")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines.pop(6)[:4] == ["cases", "left", "out:", "patient009/patient009_frame01.nii.gz,"]
    assert lines.pop(6)[:5] == ["files", "of", "no", "case:", "10"]  # the whole cycles, patientNNN_4d
    assert lines[:7] == [
        ["split", "patients", "cases"],
        ["training", "2", "4"],
        ["unlabeled", "5", "10"],
        ["validation", "0", "0"],
        ["test", "2", "4"],
        ["left", "out", "1", "2"],
        ["labels:", "background,", "a,", "b,", "c"],
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": None}, 'expected lists "training" and "validation", found no "training"'),
        ({"validation": ["patient000"]}, 'in both "training" and "validation": patient000'),
        ({"labeled_x": ["patient008"] * 4}, 'labelled patients that are not in "training": patient008'),
        ({"validation": ["patient077"]}, "lists patients that the folder does not have: patient077; check"),
    ],
)
def test_bad_split_files_are_refused(acdc: Path, capsys: pytest.CaptureFixture, change: dict, message: str):
    path = acdc / "split.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    refused(capsys, message, "--dataset-dir", str(acdc), "--split-file", str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"train": ["patient000"], "val": ["patient001"]}],
            "found a list; of other files, such as nnU-Net's splits_f",
        ),
        ("patient000", "found a string; of other files"),
        (3, "found a int; of other files"),
        (None, "found null; of other files"),
        (
            {"training": [{"id": 1}], "validation": []},
            "key \"training\": expected names of patients, found {'id': 1}; co",
        ),
        (
            {"training": [], "validation": [None, ["a"]]},
            'key "validation": expected names of patients, found None, [\'a',
        ),
        (
            {"training": [], "validation": [], "labeled_x": [1.5]},
            'key "labeled_x": expected names of patients, found 1.5',
        ),
    ],
)
def test_split_files_of_another_form_are_refused_by_name(
    acdc: Path, capsys: pytest.CaptureFixture, content: object, message: str
):
    path = acdc / "split.json"
    path.write_text(json.dumps(content))
    options = ("--dataset-dir", str(acdc), "--split-file", str(path))
    refused(capsys, message, *options)
    refused(capsys, f"split file {path}: ", *options)


def test_patients_of_a_split_file_may_be_whole_numbers(tmp_path: Path):
    for i in range(4):
        save(tmp_path / f"images/{i}.nii.gz", i)
        save(tmp_path / f"labels/{i}.nii.gz", i, classes=2)
    (tmp_path / "split.json").write_text(json.dumps({"training": [0, 3], "validation": [1, "2"], "folds": [[0], [1]]}))
    datalist = run(tmp_path, "--split-file", str(tmp_path / "split.json"))
    assert (patients(datalist, "training"), patients(datalist, "test")) == (["0", "3"], ["1", "2"])


def test_split_file_excludes_drawn_held_out_patients(acdc: Path, capsys: pytest.CaptureFixture):
    options = ("--dataset-dir", str(acdc), "--split-file", str(acdc / "split.json"))
    refused(capsys, "expected none of them beside --split-file", *options, "--test-count", "2")
    refused(
        capsys, "makes the validation list", *options, "--tuning-count", "1", "--split-file-validation-as", "validation"
    )


def test_labeled_patient_of_the_split_file_needs_a_label(acdc: Path, capsys: pytest.CaptureFixture):
    for path in acdc.glob("patient005/*_gt.nii.gz"):
        path.unlink()
    options = ("--dataset-dir", str(acdc), "--split-file", str(acdc / "split.json"))
    refused(capsys, "patients of its labelled list that have no label file: patient005", *options)


@pytest.mark.data
@pytest.mark.parametrize(("count", "tuning"), [(3, 0), (7, 10)])
def test_published_acdc_split(tmp_path: Path, count: int, tuning: int):
    root = Path(os.environ.get("VQSEG_DATA_ROOT") or ROOT.parent / "shared/data") / "acdc"
    if not root.is_dir():
        pytest.skip(f"needs the ACDC folder at VQSEG_DATA_ROOT ({root})")
    output = tmp_path / "datalist.json"
    main(["--dataset-dir", str(root), "--split-file", str(root / "split.json"), "--labeled-count", str(count),
          "--tuning-count", str(tuning), "--output", str(output)])  # fmt: skip
    datalist = json.loads(output.read_text())
    published = ["patient099", "patient038", "patient050", "patient100", "patient058", "patient021", "patient049"]
    assert patients(datalist, "training") == sorted(published[:count])
    assert [len(patients(datalist, split)) for split in ("unlabeled", "validation", "test")] == [
        70 - count - tuning, tuning, 10
    ]  # fmt: skip
    assert len(datalist["test"]) == 20
    assert len(datalist["labels"]) == 4
