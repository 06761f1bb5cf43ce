"""What DICOM cases are called: as a person called their folder, else by patient, study and series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.format_parts import write_dicom

from vqseg_bundle.data import list_volumes
from vqseg_bundle.data.layouts.case_names import naming_paths

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
