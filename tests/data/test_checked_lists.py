"""A bare list of cases is parted into sound ones and faults, of which the first are listed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.data_parts import LABELS, SHAPE, make_case, save

from vqseg_bundle.data import DataError, check_cases


def test_a_bare_list_is_parted_into_sound_cases_and_faults(tmp_path: Path):
    cases = [make_case(tmp_path, name) for name in "abcd"]
    save(Path(cases[0]["image"]), np.full(SHAPE, np.nan, np.float32))
    Path(cases[1]["image"]).write_bytes(b"")
    save(Path(cases[2]["label"]), np.full(SHAPE, 9, np.uint8))
    checked = check_cases(cases, LABELS, 1)
    assert checked.sound == cases[3:]
    assert sorted(error.replace(f"{tmp_path}{os.sep}", "").partition(";")[0] for error in checked.errors) == [
        f"a.nii.gz: {np.prod(SHAPE)} of {np.prod(SHAPE)} intensities are NaN or infinite",
        "b.nii.gz: the file is empty",
        'c_label.nii.gz: values outside "labels" (0, 1): found 9',
    ]


def test_up_to_twenty_problems_and_the_number_of_others(tmp_path: Path):
    cases = [{"image": f"/gone/{i}.nii.gz", "case": str(i), "patient": str(i)} for i in range(25)]
    with pytest.raises(DataError, match=r"The data have 25 problems:") as caught:
        check_cases(cases, LABELS, 1)
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "... and 5 more."
