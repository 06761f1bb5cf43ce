"""Labelled cases without a datalist: the other images of their folder are the unlabelled ones."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from support.format_parts import write_volume

from vqseg_bundle.data import DataError, find_other_images, open_listed_cases

LABELS = {0: "background", 1: "organ"}


def names(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


def touch(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


def study(folder: Path) -> list[dict[str, str]]:
    """What MONAI Label's local datastore leaves in a folder, and the list that it trains on."""
    touch(folder, "datastore_v2.json", ".lock", ".hidden.nii.gz", "preview.png")
    touch(folder, *(f"{name}.nii.gz" for name in "abcde"))
    touch(folder, "labels/final/a.nii.gz", "labels/final/b.nii.gz", "labels/original/c.nii.gz")
    return [
        {"image": str(folder / f"{n}.nii.gz"), "label": str(folder / f"labels/final/{n}.nii.gz")} for n in ("a", "b")
    ]


def test_a_study_folder_gives_all_other_images_and_no_label(tmp_path: Path) -> None:
    cases = study(tmp_path)
    assert find_other_images(cases) == [str(tmp_path / f"{name}.nii.gz") for name in "cde"]
    cohort = open_listed_cases({"training": cases[:1], "validation": cases[1:]}, LABELS, "study", "here")
    assert names([case["image"] for case in cohort.unlabeled]) == ["c.nii.gz", "d.nii.gz", "e.nii.gz"]
    assert [case["case"] for case in cohort.training + cohort.validation + cohort.unlabeled] == list("abcde")
    assert (cohort.labels, cohort.name, cohort.source, cohort.listed) == (LABELS, "study", "here", True)
    assert "label" not in cohort.unlabeled[0]


def test_images_that_are_linked_into_the_study_folder_stay_in_it(tmp_path: Path) -> None:
    """MONAI Label hands over resolved paths: where the links lead lie images of other studies, too."""
    archive, folder = tmp_path / "archive", tmp_path / "study"
    touch(archive, *(f"{name}.nii.gz" for name in "abcz"))
    touch(folder, "labels/final/a.nii.gz")
    for name in "abc":
        (folder / f"{name}.nii.gz").symlink_to(archive / f"{name}.nii.gz")
    cases = [{"image": str(archive / "a.nii.gz"), "label": str(folder / "labels/final/a.nii.gz")}]
    assert find_other_images(cases) == [str(folder / "b.nii.gz"), str(folder / "c.nii.gz")]


def test_folders_of_images_and_of_labels(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "images/b.nii", "images/below/c.nii.gz", "labels/a.nii.gz", "d.nii.gz")
    cases = [{"image": str(tmp_path / "images/a.nii.gz"), "label": str(tmp_path / "labels/a.nii.gz")}]
    assert names(find_other_images(cases)) == ["b.nii"]


def test_series_are_found_beside_a_series(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_volume(tmp_path / name, np.zeros((4, 4, 2), np.int16))
    touch(tmp_path, "notes.txt", "labels/a.nii.gz")
    cases = [{"image": str(tmp_path / "a"), "label": str(tmp_path / "labels" / "a.nii.gz")}]
    assert find_other_images(cases) == [str(tmp_path / "b"), str(tmp_path / "c")]


def test_labels_beside_images_are_not_taken_for_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.nii.gz", "a_gt.nii.gz", "b.nii.gz", "b_gt.nii.gz")
    cases = [{"image": str(tmp_path / "a.nii.gz"), "label": str(tmp_path / "a_gt.nii.gz")}]
    with caplog.at_level(logging.WARNING):
        assert find_other_images(cases) == []
    assert f"labels lie beside images in {tmp_path}" in caplog.text
    assert "list the images with unlabeled_data" in caplog.text


def test_a_list_of_unlabelled_cases_is_taken_as_it_is(tmp_path: Path) -> None:
    cases = study(tmp_path)
    assert open_listed_cases({"training": cases, "unlabeled": []}, LABELS, "study", "here").unlabeled == []
    given = [{"image": str(tmp_path / "e.nii.gz")}]
    cohort = open_listed_cases({"training": cases, "unlabeled": given}, LABELS, "study", "here")
    assert [case["image"] for case in cohort.unlabeled] == [str(tmp_path / "e.nii.gz")]


def test_what_is_no_case_is_refused_by_the_name_of_its_list() -> None:
    with pytest.raises(DataError, match=r'train#dataset#data: "training" entry 0 \(a.nii\): a training case needs a'):
        open_listed_cases({"training": [{"image": "a.nii"}]}, LABELS, "study", "train#dataset#data")
