"""One slice axis a cohort."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.format_parts import hounsfield, write_volume

from vqseg_bundle.data import cohort_slice_axis


def volumes(folder: Path, *spacings: tuple[float, float, float], shape: tuple[int, ...] = (4, 5, 6)) -> list[str]:
    return [
        str(write_volume(folder / f"{index}.nii.gz", hounsfield(shape), np.diag([*spacing, 1.0])))
        for index, spacing in enumerate(spacings)
    ]


def test_the_axis_that_is_coarsest_in_most_volumes_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    images = volumes(tmp_path, (1.0, 1.2, 1.0), (1.0, 1.2, 1.0), (1.0, 1.0, 1.3))
    with caplog.at_level(logging.INFO):
        assert cohort_slice_axis(images) == 1
    assert "slice axis 1: coarsest in 2 of 3 volumes" in caplog.text
    assert "tie" not in caplog.text


def test_a_tie_goes_to_the_last_axis_and_is_stated(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        assert cohort_slice_axis(volumes(tmp_path, (3.0, 1.0, 1.0), (1.0, 1.0, 3.0))) == 2
    assert "coarsest in 1 of 2 volumes (a tie: the last of them" in caplog.text
    assert f"clearly coarser along another: {tmp_path / '0.nii.gz'};" in caplog.text


def test_a_single_slice_decides_whatever_the_spacing(tmp_path: Path):
    assert cohort_slice_axis(volumes(tmp_path, (1.0, 1.0, 0.5), shape=(4, 5, 1))) == 2


def test_an_axis_asked_for_and_unreadable_files(tmp_path: Path):
    assert cohort_slice_axis([str(tmp_path / "gone.nii")], 0) == 0
    assert cohort_slice_axis([str(tmp_path / "gone.nii")]) == 2


@pytest.mark.parametrize("codes", ["RAS", "LSP", "IRA"])
def test_with_an_orientation_axes_are_those_of_the_body(codes: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    image = nib.Nifti1Image(hounsfield((4, 5, 6)), np.diag([1.0, 3.0, 1.0, 1.0]))
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    nib.save(image.as_reoriented(change), tmp_path / "x.nii.gz")
    with caplog.at_level(logging.INFO):
        assert cohort_slice_axis([str(tmp_path / "x.nii.gz")], "auto", "RAS") == "coronal"
    assert "slice axis coronal: coarsest in 1 of 1 volumes" in caplog.text
    assert cohort_slice_axis([str(tmp_path / "x.nii.gz")]) == codes.replace("P", "A").index("A")


def test_an_axis_asked_for_is_named_where_the_orientation_is_known(tmp_path: Path):
    gone = [str(tmp_path / "gone.nii")]
    assert cohort_slice_axis(gone, 0, "RAS") == cohort_slice_axis(gone, "sagittal", "RAS") == "sagittal"
    assert cohort_slice_axis(gone, "auto", "RAS") == "axial"
