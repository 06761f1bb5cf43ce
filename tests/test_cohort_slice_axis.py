"""One slice axis a cohort."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from format_parts import hounsfield, write_volume

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
