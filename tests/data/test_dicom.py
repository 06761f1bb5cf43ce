"""DICOM series: order, Hounsfield units, several in a folder, gaps, what is no slice, and what cases are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from support.data_parts import RAS_AFFINE, compress_dicom, edit_dicom, hounsfield, set_tags, write_dicom

from vqseg_bundle.data import DataError, list_volumes, load_datalist, read_header, read_voxels, source_files
from vqseg_bundle.data.formats.dicom_slices import list_series
from vqseg_bundle.data.layouts.found_case import naming_paths

SHAPE = (7, 6, 5)


ROOT = Path(__file__).parents[2]


def refused(folder: Path | str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_header(str(folder))


def test_slices_are_sorted_by_position_whatever_their_numbers(tmp_path: Path):
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE))
    assert sorted(files) != files
    assert source_files(str(tmp_path / "s")) == [str(file) for file in files]
    np.testing.assert_array_equal(read_voxels(str(tmp_path / "s")), hounsfield(SHAPE))


def test_slope_and_intercept_of_each_slice_are_applied(tmp_path: Path):
    write_dicom(tmp_path / "s", hounsfield(SHAPE), RescaleSlope=[1, 2, 1, 1, 0.5], RescaleIntercept=[-1024, 0, 0, 0, 0])
    stored = hounsfield(SHAPE) + 1024.0
    expected = stored * [1, 2, 1, 1, 0.5] + [-1024, 0, 0, 0, 0]
    np.testing.assert_array_equal(read_voxels(str(tmp_path / "s")), expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_sagittal_or_coronal_series_keeps_its_affine(tmp_path: Path, axis: int):
    affine = RAS_AFFINE[:, [1, 2, 0, 3] if axis == 0 else [2, 0, 1, 3]]
    write_dicom(tmp_path / "s", hounsfield(SHAPE), affine)
    np.testing.assert_allclose(read_header(str(tmp_path / "s")).affine, affine, atol=1e-9)


def test_a_single_slice_takes_its_thickness(tmp_path: Path):
    write_dicom(tmp_path / "s", hounsfield((7, 6, 1)))
    header = read_header(str(tmp_path / "s"))
    assert header.shape == (7, 6, 1)
    np.testing.assert_allclose(header.affine, RAS_AFFINE, atol=1e-9)


def test_several_series_are_listed_and_one_is_chosen(tmp_path: Path):
    folder = tmp_path / "s"
    write_dicom(folder, hounsfield(SHAPE), uid="1.2.3", SeriesDescription="thick")
    other = hounsfield((4, 4, 3), 1)
    for file in write_dicom(tmp_path / "t", other, uid="1.2.4"):
        file.rename(folder / f"t{file.name}")
    assert list_series(folder) == {"1.2.3": 5, "1.2.4": 3}
    refused(folder, r's: expected one DICOM series, found 2: 1.2.3 \(CT, "thick", 5 slices\), 1.2.4 \(CT, 3 slices\)')
    refused(f"{folder}#9.9", r"s: no DICOM series 9.9; found 1.2.3")
    np.testing.assert_array_equal(read_voxels(f"{folder}#1.2.4"), other)
    cases = list_volumes(tmp_path)
    assert [case["case"] for case in cases] == ["s_thick", "s"]
    (tmp_path / "d.json").write_text(
        '{"labels": {"0": "background", "1": "x"}, "unlabeled": [{"image": "s", "series": "1.2.4"}]}'
    )
    cohort = load_datalist(tmp_path / "d.json", tmp_path, accept_uneven=True)
    assert cohort.unlabeled[0]["image"] == f"{folder}#1.2.4&uneven"
    assert cohort.unlabeled[0]["case"] == "s_1.2.4"


def test_localizers_and_objects_without_an_image_are_told_apart(tmp_path: Path):
    folder = tmp_path / "s"
    write_dicom(folder, hounsfield(SHAPE), uid="1.2.3")
    turned = RAS_AFFINE[:, [1, 2, 0, 3]]
    scout = write_dicom(
        tmp_path / "t", hounsfield((3, 3, 1)), turned, "1.2.3", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    scout[0].rename(folder / "scout")
    report = write_dicom(tmp_path / "t", hounsfield((3, 3, 1)), uid="1.2.5", Modality="SR")
    report[0].rename(folder / "report")
    (folder / "LICENSE").write_text("text")
    assert read_header(str(folder)).shape == SHAPE
    (case,) = list_volumes(tmp_path / "s")
    assert case == {"image": str(folder), "case": "s"}


def test_a_missing_slice_is_named_unless_accepted(tmp_path: Path):
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE))
    files[2].unlink()
    pair = f"between {files[1].name} and {files[3].name}"
    refused(tmp_path / "s", rf"s: expected slices 3 mm apart, found 6 mm {pair} \(1 slice missing\); add the missing")
    with pytest.raises(DataError, match="uneven_slices accept"):
        source_files(str(tmp_path / "s"))
    (case,) = list_volumes(tmp_path, uneven_slices="accept")
    header = read_header(case["image"])
    assert header.shape == (7, 6, 4)
    assert np.linalg.norm(header.affine[:3, 2]) == pytest.approx(4.0)
    assert case["case"] == "s"


def test_uneven_gaps_are_named(tmp_path: Path):
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE))
    position = np.array(pydicom.dcmread(files[4]).ImagePositionPatient, dtype=float)
    step = position - np.array(pydicom.dcmread(files[3]).ImagePositionPatient, dtype=float)
    edit_dicom(files[4], set_tags(ImagePositionPatient=[float(v) for v in position + 0.4 * step]))
    refused(tmp_path / "s", rf"expected slices 3 mm apart, found 4.2 mm between {files[3].name} and {files[4].name};")


def test_small_differences_that_add_up_to_half_a_gap_are_named(tmp_path: Path):
    """30 gaps of 3 mm, then 29 of 3.12: each is within 5 % of the usual one, the 31st slice 1.77 mm from its place."""
    files = write_dicom(tmp_path / "s", hounsfield((3, 3, 60)))
    first, second = (np.array(pydicom.dcmread(file).ImagePositionPatient, dtype=float) for file in files[:2])
    for index, file in enumerate(files):
        place = first + (index + 0.04 * max(0, index - 30)) * (second - first)
        edit_dicom(file, set_tags(ImagePositionPatient=[float(f"{value:.6f}") for value in place]))
    refused(tmp_path / "s", rf"s: expected slices that lie evenly, found {files[30].name} 1\.769 mm from its place")
    (case,) = list_volumes(tmp_path, uneven_slices="accept")
    assert read_header(case["image"]).shape == (3, 3, 60)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"NumberOfFrames": 5}, r"IM000\d: expected a slice a file, found 5 frames in one \(enhanced DICOM\)"),
        (
            {"SharedFunctionalGroupsSequence": [Dataset()]},
            r"IM000\d: .* found one whose geometry lies in groups of frames",
        ),
        ({"PhotometricInterpretation": "RGB"}, r"IM000\d: expected grey values .* found RGB"),
        (
            {"PixelSpacing": [[1.0, 1.0]] * 4 + [[1.0, 2.0]]},
            r"s: expected slices of one PixelSpacing, found \[1.0, [12].0\] in IM",
        ),
        ({"Rows": [6] * 4 + [3]}, r"s: expected slices of one Rows, found"),
        (
            {"ImagePositionPatient": None},
            r"IM000\d: expected ImagePositionPatient in each of several slices, found none",
        ),
        ({"ImagePositionPatient": [0.0, 0.0, 1.0]}, r"s: expected one slice a position, found 4 taken twice: IM"),
    ],
)
def test_slices_that_make_no_volume_are_named(tmp_path: Path, attributes: dict, message: str):
    write_dicom(tmp_path / "s", hounsfield(SHAPE), **attributes)
    refused(tmp_path / "s", message)


def test_broken_files_are_named(tmp_path: Path):
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE))
    compress_dicom(files[1])
    files[1].write_bytes(files[1].read_bytes()[:-20])
    read_header(str(tmp_path / "s"))
    with pytest.raises(DataError, match=rf"{files[1].name}: the pixels cannot be decoded \(.*copy the file again"):
        read_voxels(str(tmp_path / "s"))
    (tmp_path / "empty").mkdir()
    refused(
        tmp_path / "empty", "empty: expected a volume file, or a folder of DICOM slices, found a folder without DICOM"
    )


@pytest.mark.data
def test_a_real_series_is_read_as_itk_reads_it():
    root = Path(os.environ.get("VQSEG_DATA_ROOT") or ROOT.parent / "shared/data") / "lung_ct_dicom"
    if not root.is_dir():
        pytest.skip(f"needs the DICOM folder at VQSEG_DATA_ROOT ({root})")
    from monai.data import ITKReader

    (case,) = list_volumes(root)
    reader = ITKReader()
    voxels, meta = reader.get_data(reader.read(case["image"]))
    assert len(source_files(case["image"])) == 64
    np.testing.assert_array_equal(read_voxels(case["image"]), voxels)
    np.testing.assert_allclose(read_header(case["image"]).affine, meta["affine"], atol=1e-9)


VOXELS = np.zeros((3, 3, 2), np.int16)


def write(folder: Path, **attributes: Any) -> None:
    """A series, beside those that are there."""
    for file in write_dicom(folder / "new", VOXELS, **attributes):
        file.rename(folder / f"{len(list(folder.iterdir()))}.dcm")
    (folder / "new").rmdir()


def names(root: Path) -> list[str]:
    return [case["case"] for case in list_volumes(root)]


def test_folders_that_a_person_named_name_the_cases(tmp_path: Path):
    for folder in ("anna", "PAT 7", "20240131", "study of lungs", "S1"):
        write(tmp_path / folder, PatientID="p")
    assert names(tmp_path) == ["20240131", "PAT 7", "S1", "anna", "study of lungs"]


@pytest.mark.parametrize(
    "folder",
    [
        "DICOM/PA000001/ST000001/SE000002",
        "1.2.826.0.1.3680043.8.498.1",
        "CT.1.2.840.113619.2.55",
        "DICOM",
        "series3",
        "0000A1B2",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    ],
)
def test_folders_that_tell_nothing_give_way_to_the_patient(tmp_path: Path, folder: str):
    write(tmp_path / folder, PatientID="Müller 12/a.b", SeriesNumber=4)
    assert names(tmp_path) == ["Müller_12_a_b"]


def test_an_archives_export_is_told_apart_by_what_differs(tmp_path: Path):
    root = tmp_path / "DICOM"
    write(root / "PA000001/ST000001/SE000001", PatientID="p1", StudyDate="20240101", SeriesNumber=1)
    write(root / "PA000001/ST000001/SE000002", PatientID="p1", StudyDate="20240101", SeriesNumber=2)
    write(root / "PA000001/ST000002/SE000001", PatientID="p1", StudyDate="20240301", SeriesNumber=1)
    write(root / "PA000002/ST000001/SE000001", PatientID="p2", StudyDate="20240101", SeriesNumber=1)
    assert names(tmp_path) == ["p1_20240101_1", "p1_20240101_2", "p1_20240301_1", "p2"]


def test_series_in_one_folder_have_number_and_description(tmp_path: Path):
    write(tmp_path / "anna", uid="1.2.3", SeriesNumber=2, SeriesDescription="CT Thorax 5.0 / B30f")
    write(tmp_path / "anna", uid="1.2.4", SeriesNumber=4, SeriesDescription="PET AC")
    assert names(tmp_path) == ["anna_2_CT_Thorax_5_0_B30f", "anna_4_PET_AC"]


def test_what_nothing_tells_apart_is_still_told_apart(tmp_path: Path):
    write(tmp_path / "DICOM", uid="1.2.3", PatientID="p")
    write(tmp_path / "DICOM", uid="1.2.4", PatientID="p")
    write(tmp_path / "other" / "SE000001", PatientID="p")
    write(tmp_path / "none" / "SE000001")
    found = [name.removeprefix(f"{tmp_path.name}_") for name in names(tmp_path)]
    assert found == ["p", "p_2", "SE000001", "other_p"]


def test_other_volumes_keep_their_paths(tmp_path: Path):
    paths = [str(tmp_path / "SE000001.nii.gz"), str(tmp_path / "1.2.3.4.nrrd")]
    assert naming_paths(paths) == paths
