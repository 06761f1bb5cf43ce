"""Keys of a datalist's entries that are misspelt, others that pass, and names of patients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vqseg_bundle.data import DataError, load_datalist, open_cohort
from vqseg_bundle.data.cohorts.datalist import cohort_of_lists


def write(folder: Path, test: list) -> Path:
    path = folder / "datalist.json"
    path.write_text(json.dumps({"labels": ["background", "organ"], "training": [], "test": test}))
    return path


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        *(
            (key, "patient")
            for key in ("Patient", "patient_id", "patientID", "pateint", "patients", "Subject", "subject-id")
        ),
        *((key, "label") for key in ("LABEL", "lable", "labels")),
        ("serie", "series"),
    ],
)
def test_a_misspelt_key_of_an_entry_is_refused(tmp_path: Path, key: str, meant: str):
    entry = {"image": "a.nii", key: "p"}
    message = rf'datalist\.json: "test" entry 1: unknown key "{key}"; did you mean "{meant}"\? Correct it, or rename'
    with pytest.raises(DataError, match=message):
        load_datalist(write(tmp_path, test=["b.nii", entry]), tmp_path)
    assert load_datalist(write(tmp_path, test=["b.nii", {**entry, meant: "q"}]), tmp_path).test[1]["image"]


def test_other_keys_of_an_entry_pass(tmp_path: Path):
    others = ("phase", "group", "fold", "patient_age", "image_meta_dict", "labelled", "labeler", "stage", "case", "age")
    cohort = load_datalist(write(tmp_path, test=[{"image": "a.nii", **dict.fromkeys(others, "1")}]), tmp_path)
    assert cohort.test == [{"image": str(tmp_path / "a.nii"), "case": "a", "patient": "a"}]


def test_keys_that_are_no_text_pass():
    cases = {"training": [{"image": "a.nii", "label": "b.nii", 1: "x"}]}
    assert cohort_of_lists(cases, {0: "background"}, "n", "here").training[0]["case"] == "a"


def test_a_patient_has_one_name_however_it_is_written(tmp_path: Path):
    names = ["Jos\u00e9", " Jose\u0301 ", 7, "7", " "]
    entries = [{"image": f"{i}.nii", "patient": name} for i, name in enumerate(names)]
    cohort = load_datalist(write(tmp_path, test=entries), tmp_path)
    assert [case["patient"] for case in cohort.test] == ["Jos\u00e9", "Jos\u00e9", "7", "7", "4"]
    with pytest.raises(DataError, match='expected an id under "patient", found a boolean'):
        load_datalist(write(tmp_path, test=[{"image": "a.nii", "patient": True}]), tmp_path)


def test_a_folder_without_a_datalist_is_answered_by_a_command_and_the_folder_above_that_has_one(tmp_path: Path) -> None:
    folder = tmp_path / "my scans" / "images"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match=r"found neither\. Name the file .*: vqseg data '/.*/my scans/images'$"):
        open_cohort(str(folder), None, "")
    write(folder.parent, [])
    with pytest.raises(DataError, match=r"found neither\. /.*/my scans has one: is that the dataset_dir\? Name the "):
        open_cohort(str(folder), None, "")


def test_a_list_of_another_kind_is_answered_by_a_command_that_a_shell_reads(tmp_path: Path) -> None:
    folder = tmp_path / "my scans"
    folder.mkdir()
    (folder / "dataset.json").write_text('{"labels": {}}')
    with pytest.raises(DataError, match=r"make a datalist: vqseg data '/.*/my scans'$"):
        load_datalist(folder / "dataset.json", folder)
