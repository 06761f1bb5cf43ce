"""Folders as users have them: a folder a patient, labels beside images, names of many kinds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.bundle_runs import ROOT
from support.data_parts import write_dicom
from support.folder_parts import VOXELS, fill, found

from vqseg_bundle.commands.data import main
from vqseg_bundle.data import DataError, find_cases, find_classes, find_unused_files, list_volumes, load_datalist


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("image.nii.gz", "label.nii.gz"),
        ("imaging.nii.gz", "segmentation.nii.gz"),
        ("p1_ct.nii.gz", "p1_ct_seg.nii.gz"),
        ("scan.nii", "Mask.nii"),
        ("ct.nii.gz", "organs-label.nii.gz"),
    ],
)
def test_a_folder_a_patient(tmp_path: Path, image: str, label: str) -> None:
    fill(tmp_path, f"007/{image}", f"007/{label}", f"0815/{image}")
    assert found(tmp_path) == [
        (f"007/{image}", f"007/{label}", "007", ""),
        (f"0815/{image}", "", "0815", ""),
    ]


def test_two_images_in_a_patients_folder_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "p/a.nii.gz", "p/b.nii.gz", "p/label.nii.gz")
    with pytest.raises(
        DataError, match=r"p: expected one image and one label at most in a patient's folder, found image"
    ):
        find_cases(tmp_path)


@pytest.mark.parametrize("ending", ["_seg", "-label", ".seg", "_mask", "-segmentation", "_Label"])
def test_labels_beside_their_images(tmp_path: Path, ending: str) -> None:
    fill(tmp_path, "a.nii.gz", f"a{ending}.nii.gz", "b.nii.gz")
    assert found(tmp_path) == [("a.nii.gz", f"a{ending}.nii.gz", "a", ""), ("b.nii.gz", "", "b", "")]
    assert [case["case"] for case in list_volumes(tmp_path)] == ["a", "b"]


def test_a_label_beside_no_image_is_no_image(tmp_path: Path) -> None:
    fill(tmp_path, "a.nii.gz", "a_seg.nii.gz", "b_seg.nii.gz")
    with pytest.raises(DataError, match=r"b_seg\.nii\.gz: expected each label beside its image, found none called b;"):
        find_cases(tmp_path)
    (tmp_path / "b_seg.nii.gz").rename(tmp_path / "a-mask.nii.gz")
    with pytest.raises(DataError, match=r"a_seg\.nii\.gz: expected one label an image, found a-mask\.nii\.gz for a, t"):
        find_cases(tmp_path)


@pytest.mark.parametrize("folder", ["", "p/"])
def test_previews_beside_volumes_are_no_images(tmp_path: Path, folder: str) -> None:
    """Those of the volume's own name, too, which would stand in its place."""
    fill(tmp_path, f"{folder}a.nii.gz", f"{folder}a_seg.nii.gz")
    for name in ("a.png", "a_seg.png", "overview.png"):
        (tmp_path / folder / name).write_bytes(b"x")
    assert found(tmp_path) == [(f"{folder}a.nii.gz", f"{folder}a_seg.nii.gz", folder.strip("/") or "a", "")]
    (tmp_path / folder / "a.nii.gz").unlink()  # now the pictures alone are images
    (tmp_path / folder / "overview.png").unlink()
    assert found(tmp_path) == [(f"{folder}a.png", f"{folder}a_seg.nii.gz", folder.strip("/") or "a", "")]
    fill(tmp_path, f"{folder}a.nii.gz", f"{folder}a.nii")
    with pytest.raises(DataError, match=r"a\.nii\.gz: expected one file a name, found a\.nii besides"):
        find_cases(tmp_path)


def test_endings_in_capitals(tmp_path: Path) -> None:
    names = ["imagesTr/A_0000.NII.GZ", "imagesTr/A_0001.NII.GZ", "labelsTr/A.NII.GZ"]
    fill(tmp_path, *(name.replace(".NII.GZ", ".nii.gz") for name in names))
    for name in names:
        (tmp_path / name.replace(".NII.GZ", ".nii.gz")).rename(tmp_path / name)
    assert found(tmp_path) == [(*names, "A", "")]
    (case,) = list_volumes(tmp_path / "imagesTr", in_channels=2)
    assert case["case"] == "A"


def test_folders_in_any_case_of_letters(tmp_path: Path) -> None:
    fill(tmp_path, "Images/a.nii.gz", "LABELS/a.nii.gz")
    assert found(tmp_path) == [("Images/a.nii.gz", "LABELS/a.nii.gz", "a", "")]


def test_train_and_test(tmp_path: Path) -> None:
    fill(tmp_path, "train/images/a.nii.gz", "train/labels/a.nii.gz", "train/images/b.nii.gz")
    fill(tmp_path, "val/images/v.nii.gz", "val/labels/v.nii.gz", "test/p/ct.nii.gz", "test/p/label.nii.gz")
    assert found(tmp_path) == [
        ("train/images/a.nii.gz", "train/labels/a.nii.gz", "a", ""),
        ("train/images/b.nii.gz", "", "b", ""),
        ("val/images/v.nii.gz", "val/labels/v.nii.gz", "v", "validation"),
        ("test/p/ct.nii.gz", "test/p/label.nii.gz", "p", "test"),
    ]


def test_a_pair_of_hdr_and_img_is_one_volume(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for part in ("images", "labels"):
        nib.save(nib.Nifti1Pair(VOXELS, np.eye(4)), tmp_path / part / "a.hdr")
    assert found(tmp_path) == [("images/a.hdr", "labels/a.hdr", "a", "")]
    assert [case["case"] for case in list_volumes(tmp_path / "images")] == ["a"]


def test_segments_of_3d_slicer_are_classes(tmp_path: Path) -> None:
    header = "NRRD0004\ntype: unsigned char\ndimension: 3\nsizes: 4 3 2\nencoding: raw\n"
    names = "Segment0_LabelValue:=1\nSegment0_Name:=liver\nSegment1_LabelValue:=3\nSegment1_Name:=tumour\n\n"
    voxels = np.where(VOXELS == 2, 3, VOXELS).astype(np.uint8)
    fill(tmp_path, "a.nii.gz")
    (tmp_path / "a.seg.nrrd").write_bytes((header + names).encode() + voxels.T.tobytes())
    cases = find_cases(tmp_path)
    assert [(case.image, case.label) for case in cases] == [("a.nii.gz", "a.seg.nrrd")]
    classes = find_classes(tmp_path, cases)
    assert (classes.names, classes.values) == (("background", "liver", "tumour"), (0, 1, 3))


def test_one_value_with_two_names_is_refused(tmp_path: Path) -> None:
    """As 3D Slicer writes it after a segment was deleted and drawn again."""
    fill(tmp_path, "a.nii.gz", "b.nii.gz")
    header = "NRRD0004\ntype: unsigned char\ndimension: 3\nsizes: 4 3 2\nencoding: raw\n"
    for name, organs in (("a", ("liver", "spleen")), ("b", ("spleen", "liver"))):
        names = "".join(f"Segment{i}_LabelValue:={i + 1}\nSegment{i}_Name:={organ}\n" for i, organ in enumerate(organs))
        (tmp_path / f"{name}.seg.nrrd").write_bytes(f"{header}{names}\n".encode() + VOXELS.astype(np.uint8).T.tobytes())
    cases = find_cases(tmp_path)
    for given in ((), ("background", "liver", "spleen")):
        with pytest.raises(
            DataError, match=r"b\.seg\.nrrd: expected value 1 to be liver, as in .*a\.seg\.nrrd, found spleen"
        ):
            find_classes(tmp_path, cases, given)


def test_dots_in_the_names_of_dicom_folders_are_their_own(tmp_path: Path) -> None:
    for name in ("Mueller.Anna", "Mueller.Hans"):
        write_dicom(tmp_path / name, np.zeros((4, 3, 2), np.int16))
    assert [case["case"] for case in list_volumes(tmp_path)] == ["Mueller.Anna", "Mueller.Hans"]


def test_dicom_images_of_one_patient_id_are_of_one_patient(tmp_path: Path) -> None:
    for name, patient in (("exam1", "MUELLER"), ("exam2", "MUELLER"), ("exam3", "MEIER"), ("exam4", "")):
        write_dicom(tmp_path / "images" / name, np.zeros((4, 3, 2), np.int16), PatientID=patient)
    assert [case.patient for case in find_cases(tmp_path)] == ["exam1", "exam1", "exam3", "exam4"]
    assert [case.patient for case in find_cases(tmp_path, "exam.")] == ["exam1", "exam2", "exam3", "exam4"]
    shutil.rmtree(tmp_path / "images" / "exam3")  # then all that have one have the same, which says nothing
    assert [case.patient for case in find_cases(tmp_path)] == ["exam1", "exam2", "exam4"]


@pytest.mark.parametrize(
    ("name", "patient"),
    [("sub-01_ses-1_T1w", "sub-01"), ("sub-verse004_ct", "sub-verse004"), ("sub_01_x", "sub_01_x"), ("sub-1", "sub-1")],
)
def test_subjects_of_bids_are_patients(name: str, patient: str, tmp_path: Path) -> None:
    fill(tmp_path, f"images/{name}.nii.gz", f"labels/{name}.nii.gz")
    assert [case.patient for case in find_cases(tmp_path)] == [patient]
    assert [case.patient for case in find_cases(tmp_path, ".+")] == [name]


def test_a_series_in_two_folders_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_dicom(tmp_path / "A", np.zeros((4, 3, 6), np.int16))
    assert len(list_volumes(tmp_path)) == 1
    assert not caplog.text
    (tmp_path / "B").mkdir()
    for file in files[3:]:
        file.rename(tmp_path / "B" / file.name)
    assert len(list_volumes(tmp_path)) == 2
    assert (
        f"one DICOM series lies in several folders, each of which is taken for a volume of its own: {tmp_path}"
        in caplog.text
    )


def test_accents_are_one_in_both_spellings(tmp_path: Path) -> None:
    name = "M\u00fcller"
    fill(tmp_path, f"images/{name}.nii.gz", f"labels/{unicodedata.normalize('NFD', name)}.nii.gz")
    ((image, label, patient, _),) = found(tmp_path)
    assert (image, patient) == (f"images/{name}.nii.gz", name)
    assert label


def test_a_name_that_is_no_utf_8_is_a_name(tmp_path: Path) -> None:
    fill(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")
    for part in ("images", "labels"):
        (tmp_path / part / "a.nii.gz").rename(tmp_path / part / os.fsdecode(b"M\xfcller.nii.gz"))
    command = [sys.executable, "-m", "vqseg_bundle", "data", "--dataset-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    cohort = load_datalist(tmp_path / "datalist.json", tmp_path)
    (case,) = cohort.training
    assert case["case"] == "M_ller"
    assert Path(case["image"]).is_file()


def test_what_is_left_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, "images/p1_a.nii.gz", "images/p1_b.nii.gz", "labels/p1_a.nii.gz", "old/x.nii.gz", ".hidden/y.nii.gz")
    cases = find_cases(tmp_path)
    assert find_unused_files(tmp_path, cases) == {"": ["old/x.nii.gz"]}
    main(["--dataset-dir", str(tmp_path), "--patient-pattern", "^p\\d"])
    printed = capsys.readouterr().out
    assert "left out             1       1\n" in printed
    assert "cases left out: images/p1_b.nii.gz" in printed
    assert "files of no case: 1 (old/x.nii.gz)" in printed
