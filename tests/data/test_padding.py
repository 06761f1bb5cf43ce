"""A constant value far from all others is told, and neither a background nor what is usual around CT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.data_parts import SHAPE, make_cohort, save, write_dicom

from vqseg_bundle.data import check_cohort
from vqseg_bundle.data.checking.intensities import find_padding, find_sentinel, ordered_sample

CUBE = (20, 20, 20)


def tissue(low: float, high: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, CUBE)


def padded(voxels: np.ndarray, value: float, share: float = 0.1) -> np.ndarray:
    voxels = voxels.copy()
    voxels.ravel()[: round(share * voxels.size)] = value
    return voxels


MRI, CT, ABDOMEN = tissue(-6, 235), tissue(-1000, 2000), tissue(-150, 400)
FOUND = [
    *((f"{value:g} in an MRI", padded(MRI, value), value) for value in (-9999, -1000, -3000, 5000)),
    ("of 1 %", padded(MRI, -1000, 0.0101), -1000),
    ("most of an MRI", padded(MRI, -1000, 0.9), -1000),
    ("beside a clipped top", padded(np.minimum(MRI, 200), -1000), -1000),
    ("in a standardised image", padded(tissue(-2, 5), -100), -100),
    ("as integers", padded(np.round(MRI), -1000).astype(np.int16), -1000),
]
PASSED = [
    ("none", MRI),
    ("a background of 0", padded(tissue(1, 2000), 0, 0.9)),
    ("a background of 0 far below", padded(tissue(900, 1000), 0, 0.5)),
    *((f"{value} around CT", padded(CT, value)) for value in (-1024, -2000, -3024, -9999, -32768)),
    *((f"{value} around CT without air", padded(ABDOMEN, value)) for value in (-1024, -2000, -3024)),
    ("metal", padded(CT, 30000)),
    ("a clipped top", np.minimum(MRI, 200)),
    ("a background of its own", padded(MRI, -50)),
    ("two values", (MRI > 100) * 1000.0),
    ("sparse", np.where(MRI < 230, 0.0, 1000.0)),
    ("constant", np.full(CUBE, 7.0)),
    ("few voxels", padded(MRI, -1000, 0.005)),
]


@pytest.mark.parametrize(("voxels", "value"), [case[1:] for case in FOUND], ids=[case[0] for case in FOUND])
def test_padding_is_found(voxels: np.ndarray, value: float) -> None:
    assert find_padding(ordered_sample(voxels)) == value
    assert find_sentinel(ordered_sample(voxels)) is None


@pytest.mark.parametrize("voxels", [case[1] for case in PASSED], ids=[case[0] for case in PASSED])
def test_other_values_are_left_alone(voxels: np.ndarray) -> None:
    assert find_padding(ordered_sample(voxels)) is None


def test_the_check_warns_of_padding_unless_a_window_clips_it(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path)
    voxels = np.random.default_rng(0).uniform(0, 1, SHAPE)
    voxels[:2] = -20
    cohort.unlabeled[0]["image"] = save(tmp_path / "pad.nii.gz", voxels)
    warnings = [text for text in check_cohort(cohort, 1, progress=False, use_cache=False) if "pad.nii.gz" in text]
    assert any("the value -20 fills a part of the image and lies far from all others" in text for text in warnings)
    clipped = check_cohort(cohort, 1, progress=False, use_cache=False, clipped=True)
    assert not any("fills a part" in text for text in clipped)


def test_what_is_ct_by_its_header_is_left_alone(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path)
    voxels = np.random.default_rng(0).integers(-5, 60, (20, 20, 10))
    voxels[:4] = -1000
    for modality, count in (("CT", 0), ("MR", 1)):
        write_dicom(tmp_path / modality, voxels, Modality=modality)
        cohort.unlabeled[0]["image"] = str(tmp_path / modality)
        warnings = check_cohort(cohort, 1, progress=False, use_cache=False)
        assert sum("the value -1000 fills a part" in text for text in warnings) == count
