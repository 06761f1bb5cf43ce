"""Layouts of folders beyond images/ and labels/: what each case's label, patient, list and information are."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from monai.apps import DecathlonDataset
from support.data_parts import hounsfield, write_dicom, write_picture, write_volume

from vqseg_bundle.commands import decathlon_download
from vqseg_bundle.commands.data import main
from vqseg_bundle.data import DataError, check_cohort, find_cases, list_volumes, load_datalist

ROOT = Path(__file__).parents[2]
SHAPE = (6, 5, 4)


def datalist_of(folder: Path, *options: str) -> dict:
    main(["--dataset-dir", str(folder), "--force", *options])
    return json.loads((folder / "datalist.json").read_text())


def mask(seed: int, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, (8, 9)).astype(np.uint8)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(100 + seed).integers(0, 256, (8, 9)).astype(np.uint8)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """As the published VQ-Seg code has it: PNG images, NPY masks."""
    for index, part in enumerate(("train-label", "train-unlabel", "val", "test")):
        name = f"patient{index:03d}_frame01_slice_2"
        write_picture(tmp_path / part / "image" / f"{name}.png", picture(index))
        write_picture(tmp_path / part / "mask" / f"{name}.npy", mask(index))
    return tmp_path


def test_the_published_codes_folders_fix_the_split(published: Path, capsys: pytest.CaptureFixture):
    datalist = datalist_of(published)
    name = "image/patient000_frame01_slice_2.png"
    assert datalist["training"] == [
        {"image": f"train-label/{name}", "label": f"train-label/{name[:-4].replace('image', 'mask')}.npy",
         "patient": "patient000"}
    ]  # fmt: skip
    assert datalist["unlabeled"] == [
        {"image": "train-unlabel/image/patient001_frame01_slice_2.png", "patient": "patient001"}
    ]
    assert [len(datalist[split]) for split in ("validation", "test")] == [1, 1]
    assert list(datalist["labels"]) == ["0", "1", "2"]
    assert check_cohort(load_datalist(published / "datalist.json", published), 1, progress=False) == []
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--dataset-dir", str(published), "--force", "--labeled-count", "1"])
    assert "--labeled-count: the folders fix the split; leave it out" in capsys.readouterr().err
    (published / "val/mask/patient002_frame01_slice_2.npy").unlink()
    with pytest.raises(DataError, match=r"patient002_frame01_slice_2.png: expected a mask of the same name"):
        find_cases(published)


def test_labeled_and_unlabeled_folders(tmp_path: Path):
    for index in range(4):
        write_picture(tmp_path / f"labeled/images/{index}.jpg", picture(index))
        write_picture(tmp_path / f"labeled/labels/{index}.png", mask(index))
        write_picture(tmp_path / f"unlabeled/images/u{index}.jpg", picture(9 + index))
    datalist = datalist_of(tmp_path, "--labeled-count", "2", "--test-count", "1")
    assert [len(datalist[split]) for split in ("training", "unlabeled", "test")] == [2, 5, 1]
    assert {entry["image"].split("/")[0] for entry in datalist["test"]} == {"labeled"}
    write_picture(tmp_path / "unlabeled/images/0.jpg", picture(0))
    with pytest.raises(DataError, match="the same case or patient in both: 0; keep it in one"):
        find_cases(tmp_path)


def test_labels_may_be_called_after_what_they_are(tmp_path: Path):
    write_picture(tmp_path / "images/a.png", picture(0))
    write_picture(tmp_path / "masks/a_segmentation.png", mask(0, 2) * 255)
    assert find_cases(tmp_path)[0].label == "masks/a_segmentation.png"
    assert datalist_of(tmp_path)["labels"] == {"0": "background", "1": "label_1"}
    write_picture(tmp_path / "masks/a_mask.png", mask(0))
    with pytest.raises(DataError, match=r"expected one label an image, found a_mask.png for a, too"):
        find_cases(tmp_path)


def test_files_in_folders_below_are_told_apart_by_them(tmp_path: Path):
    for patient in ("p1", "p2"):
        write_volume(tmp_path / f"images/{patient}/day 1/scan_image.nii.gz", hounsfield(SHAPE))
        write_volume(tmp_path / f"labels/{patient}/day 1/scan_label.nii.gz", np.ones(SHAPE, np.uint8))
    found = {case.image: (case.label, case.patient) for case in find_cases(tmp_path, "^(p.)_")}
    assert found == {
        f"images/{patient}/day 1/scan_image.nii.gz": (f"labels/{patient}/day 1/scan_label.nii.gz", patient)
        for patient in ("p1", "p2")
    }
    assert [case.patient for case in find_cases(tmp_path)] == ["p1_day 1_scan", "p2_day 1_scan"]


def test_labels_among_images_are_refused(tmp_path: Path):
    for name in ("a", "a_seg"):
        write_volume(tmp_path / f"images/{name}.nii.gz", hounsfield(SHAPE))
    with pytest.raises(DataError, match=r"a_seg.nii.gz: expected only images, .* label of a.nii.gz; put labels into"):
        find_cases(tmp_path)
    assert [case["case"] for case in list_volumes(tmp_path / "images")] == ["a"]


def test_other_folders_are_listed(tmp_path: Path):
    (tmp_path / "stuff").mkdir()
    with pytest.raises(DataError, match=r"found stuff/\. Name the folder that holds them, rename folders so, or write"):
        find_cases(tmp_path)
    (tmp_path / "stuff").rmdir()
    with pytest.raises(DataError, match=r"found nothing\. Name the folder"):
        find_cases(tmp_path)


def test_a_dicom_series_is_a_folder_of_images(tmp_path: Path):
    write_dicom(tmp_path / "images/p1/study/series", hounsfield(SHAPE))
    write_volume(tmp_path / "labels/p1.nrrd", np.ones(SHAPE, np.uint8))
    for uid in ("1.2.3", "1.2.4"):
        for file in write_dicom(tmp_path / "images/p2", hounsfield(SHAPE), uid=uid):
            file.rename(file.with_name(f"{uid}_{file.name}"))
    found = {case.image: (case.label, case.patient) for case in find_cases(tmp_path)}
    assert found == {
        "images/p1/study/series": ("labels/p1.nrrd", "p1"),
        "images/p2#1.2.3": ("", "p2_1.2.3"),
        "images/p2#1.2.4": ("", "p2_1.2.4"),
    }
    cohort = load_datalist(_written(tmp_path), tmp_path)
    assert check_cohort(cohort, 1, progress=False, level="headers") == []


def _written(folder: Path) -> Path:
    datalist_of(folder, "--labels", "background,organ")
    return folder / "datalist.json"


def test_slices_of_a_series_beside_each_other_are_no_cases(tmp_path: Path):
    for file in write_dicom(tmp_path / "images", hounsfield(SHAPE)):
        file.rename(file.with_suffix(".dcm"))
    with pytest.raises(DataError, match="images: expected each DICOM series in a folder of its own, found 4 slices"):
        find_cases(tmp_path)


def test_acdc_as_the_challenge_hands_it_out(tmp_path: Path):
    for number, part in ((1, "training"), (2, "training"), (101, "testing")):
        folder = tmp_path / part / f"patient{number:03d}"
        for frame in (1, 12):
            write_volume(folder / f"{folder.name}_frame{frame:02d}.nii.gz", hounsfield(SHAPE, number + frame))
            write_volume(folder / f"{folder.name}_frame{frame:02d}_gt.nii.gz", np.ones(SHAPE, np.uint8))
        write_volume(folder / f"{folder.name}_4d.nii.gz", hounsfield(SHAPE))
        (folder / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\n")
    datalist = datalist_of(tmp_path, "--labeled-count", "1")
    assert [len(datalist[split]) for split in ("training", "unlabeled", "validation", "test")] == [2, 2, 0, 2]
    assert datalist["test"][1] == {
        "image": "testing/patient101/patient101_frame12.nii.gz",
        "label": "testing/patient101/patient101_frame12_gt.nii.gz",
        "patient": "patient101",
        "phase": "ES",
        "group": "DCM",
    }
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--dataset-dir", str(tmp_path), "--force", "--test-count", "1"])


def test_a_decathlon_task_of_several_channels(tmp_path: Path):
    write_volume(tmp_path / "imagesTr/a.nii.gz", hounsfield((*SHAPE, 2)))
    write_volume(tmp_path / "labelsTr/a.nii.gz", np.ones(SHAPE, np.uint8))
    write_volume(tmp_path / "imagesTs/b.nii.gz", hounsfield((*SHAPE, 2), 1))
    content = {
        "name": "task",
        "labels": {"0": "background", "1": "tumour"},
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
        "test": ["./imagesTs/b.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    direct = load_datalist(tmp_path / "dataset.json", tmp_path)
    assert [case["case"] for case in direct.test] == ["b"]
    assert check_cohort(direct, 2, progress=False) == []
    datalist = datalist_of(tmp_path)
    assert datalist["labels"] == {"0": "background", "1": "tumour"}
    assert datalist["training"][0] == {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", "patient": "a"}
    assert datalist["test"] == []
    assert datalist["unlabeled"] == [{"image": "imagesTs/b.nii.gz", "patient": "b"}]
    (tmp_path / "dataset.json").write_text('{"training": ["x"]}')
    with pytest.raises(DataError, match=r'expected \{"image": path, "label": path\} under "training", found \'x\''):
        find_cases(tmp_path)


def test_the_validation_list_of_a_task_stays_one(tmp_path: Path):
    for index in range(3):
        write_volume(tmp_path / f"imagesTr/{index}.nii.gz", hounsfield(SHAPE, index))
        write_volume(tmp_path / f"labelsTr/{index}.nii.gz", np.ones(SHAPE, np.uint8))
    cases = [{"image": f"imagesTr/{index}.nii.gz", "label": f"labelsTr/{index}.nii.gz"} for index in range(3)]
    content = {"labels": {"0": "background", "1": "tumour"}, "training": cases[:2], "validation": cases[2:]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    datalist = datalist_of(tmp_path, "--labeled-count", "2")
    assert [case["image"] for case in datalist["training"]] == ["imagesTr/0.nii.gz", "imagesTr/1.nii.gz"]
    assert [case["image"] for case in datalist["validation"]] == ["imagesTr/2.nii.gz"]
    for validation, message in (
        (cases[1:], r"found imagesTr/1\.nii\.gz in an earlier one and under \"validation\""),
        (["imagesTr/2.nii.gz"], r'expected \{"image": path, "label": path\} under "validation", found \'imagesTr/2'),
    ):
        (tmp_path / "dataset.json").write_text(json.dumps({**content, "validation": validation}))
        with pytest.raises(DataError, match=message):
            find_cases(tmp_path)


def test_a_task_that_cannot_be_downloaded_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def fail(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(decathlon_download, "download_url", fail)
    for task, message in (
        ("Task06_Lung", "Task06_Lung: cannot be downloaded from https"),
        ("Task6", "expected one of Task01"),
    ):
        with pytest.raises(SystemExit, match=r"^2$"):
            main(["--dataset-dir", str(tmp_path), "--decathlon-task", task])
        assert message in capsys.readouterr().err


def test_a_task_is_downloaded_once_and_becomes_a_datalist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """MONAI's downloader, from a file in the network's place."""
    task = tmp_path / "made" / "Task06_Lung"
    for index in range(3):
        write_volume(task / f"imagesTr/lung_{index}.nii.gz", hounsfield(SHAPE, index))
        write_volume(task / f"labelsTr/lung_{index}.nii.gz", np.ones(SHAPE, np.uint8))
    entries = [{key: f"./{key}sTr/lung_{index}.nii.gz" for key in ("image", "label")} for index in range(3)]
    content = {"name": "Lung", "labels": {"0": "background", "1": "cancer"}, "training": entries, "test": []}
    (task / "dataset.json").write_text(json.dumps(content))
    archive = tmp_path / "made" / "Task06_Lung.tar"
    with tarfile.open(archive, "w") as file:
        file.add(task, task.name)
    monkeypatch.setitem(DecathlonDataset.resource, "Task06_Lung", archive.as_uri())
    options = ("--dataset-dir", str(tmp_path / "got"), "--decathlon-task", "Task06_Lung", "--labeled-count", "1")
    monkeypatch.setitem(DecathlonDataset.md5, "Task06_Lung", "0" * 32)
    with pytest.raises(SystemExit, match=r"^2$"):
        main([*options])
    assert f"Task06_Lung: expected an archive of MD5 {'0' * 32}, found another one" in capsys.readouterr().err
    digest = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(DecathlonDataset.md5, "Task06_Lung", digest)
    main([*options])
    got = tmp_path / "got" / "Task06_Lung"
    datalist = json.loads((got / "datalist.json").read_text())
    assert [len(datalist[split]) for split in ("training", "unlabeled")] == [1, 2]
    assert datalist["labels"] == content["labels"]
    assert check_cohort(load_datalist(got / "datalist.json", got), 1, "headers", progress=False) == []
    archive.unlink()
    main([*options, "--force"])


def test_a_patient_pattern_may_have_alternatives(tmp_path: Path):
    for name in ("org_001_5", "7"):
        write_picture(tmp_path / f"images/{name}.png", picture(0))
    found = find_cases(tmp_path, r"^(.+)_\d+$|^(\d+)$")
    assert [case.patient for case in found] == ["7", "org_001"]
    with pytest.raises(DataError, match="expected a regular expression"):
        find_cases(tmp_path, "(")


@pytest.mark.data
def test_covid_slices_become_a_datalist_by_one_command(tmp_path: Path):
    root = Path(os.environ.get("VQSEG_DATA_ROOT") or ROOT.parent / "shared/data") / "covid_ct"
    if not root.is_dir():
        pytest.skip(f"needs the COVID folder at VQSEG_DATA_ROOT ({root})")
    output = tmp_path / "covid.json"
    main(["--dataset-dir", str(root), "--test-count", "15", "--output", str(output)])
    datalist = json.loads(output.read_text())
    assert [len(datalist[split]) for split in ("training", "unlabeled", "test")] == [35, 400, 15]
    assert len(datalist["labels"]) == 3
