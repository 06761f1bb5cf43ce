"""What the data check says of intensities and of label values, and how labels are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.check_parts import LABELS, SHAPE, make_case, make_cohort, patch_header, refused, save

from vqseg_bundle.data import Cohort, DataError, LoadVolumed, check_cases, check_cohort, read_voxels
from vqseg_bundle.data.formats.volume_io import read_classes


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return make_cohort(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_intensities(cohort: Cohort, tmp_path: Path, value: float):
    voxels = np.ones(SHAPE, np.float32)
    voxels[2, 3, 1:3] = value
    cohort.unlabeled[0]["image"] = save(tmp_path / "nan.nii.gz", voxels)
    refused(cohort, r"nan.nii.gz: 2 of 280 intensities are NaN or infinite")
    assert check_cohort(cohort, 1, level="headers") == []


def test_label_value_outside_labels_lists_what_was_found(cohort: Cohort, tmp_path: Path):
    label = np.zeros(SHAPE, np.int16)
    label.flat[:2] = 1, 7
    cohort.training[0]["label"] = save(tmp_path / "l.nii.gz", label)
    refused(cohort, r'l.nii.gz: values outside "labels" \(0, 1\): found 0, 1, 7;')
    label[-1] = -1
    save(tmp_path / "l.nii.gz", label)
    refused(cohort, 'found -1, 0, 1, 7; class indices start at 0, none says "ignore"')


def test_values_with_a_gap_are_named_with_what_maps_them(cohort: Cohort, tmp_path: Path):
    label = np.zeros(SHAPE, np.uint8)
    label.flat[:2] = 1, 4
    cohort.training[0]["label"] = save(tmp_path / "l.nii.gz", label)
    refused(cohort, r'"labels" \(0, 1\): found 0, 1, 4; correct .* or map the values by "label_values"')


def test_float_labels_hold_whole_numbers(cohort: Cohort, tmp_path: Path):
    label = np.zeros(SHAPE, np.float32)
    label[3] = 1
    cohort.training[0]["label"] = save(tmp_path / "l.nii.gz", label)
    assert check_cohort(cohort, 1, progress=False) == []
    label[3] = 0.5
    save(tmp_path / "l.nii.gz", label)
    refused(cohort, r"l.nii.gz: values that are not whole numbers .* found 0, 0.5;")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_labels(cohort: Cohort, tmp_path: Path, value: float):
    label = np.zeros(SHAPE, np.float32)
    label[3] = value
    cohort.training[0]["label"] = save(tmp_path / "l.nii.gz", label)
    refused(cohort, r"l.nii.gz: 35 of 280 values are NaN or infinite; give these voxels a class, 0 for the background")


@pytest.mark.parametrize("factor", [1.00000006, 1.00009, 0.99991])
def test_labels_within_a_ten_thousandth_of_whole_numbers_are_read_as_these(
    cohort: Cohort, tmp_path: Path, factor: float
):
    label = np.zeros(SHAPE)
    label[3] = factor
    path = save(tmp_path / "l.nii.gz", label)
    cohort.training[0]["label"] = path
    assert check_cohort(cohort, 1, progress=False) == []
    classes, mapped = read_classes(path)
    assert sorted(np.unique(classes)) == [0, 1]
    assert not mapped
    np.testing.assert_array_equal(read_voxels(path, is_label=True), classes)
    np.testing.assert_array_equal(LoadVolumed("label", is_label=True)({"label": path})["label"], classes)
    assert read_voxels(path).max() == factor


@pytest.mark.parametrize("factor", [1.00011, 0.99989])
def test_labels_beyond_a_ten_thousandth_are_refused_with_their_values(cohort: Cohort, tmp_path: Path, factor: float):
    label = np.zeros(SHAPE)
    label[3] = factor
    cohort.training[0]["label"] = save(tmp_path / "l.nii.gz", label)
    refused(cohort, rf"l.nii.gz: values that are not whole numbers .* found 0, {factor};")


def test_a_mask_scaled_by_1_over_255_in_its_header_holds_classes(cohort: Cohort, tmp_path: Path):
    label = np.zeros(SHAPE, np.uint8)
    label[3] = 255
    path = Path(save(tmp_path / "l.nii", label))
    patch_header(path, 112, np.float32(0.00392157).tobytes())  # scl_slope: 255 becomes 1.00000035
    cohort.training[0]["label"] = str(path)
    assert check_cohort(cohort, 1, progress=False) == []
    assert read_classes(str(path))[0].sum() == 35


def test_classes_divided_by_255_are_known_as_such(cohort: Cohort, tmp_path: Path):
    label = np.zeros(SHAPE, np.float32)
    label[3] = 1 / 255
    cohort.training[0]["label"] = save(tmp_path / "l.nii.gz", label)
    refused(cohort, r"found 0, 0\.003921569; they are class indices divided by 255: multiply them by 255")


def test_many_label_values_are_cut(cohort: Cohort, tmp_path: Path):
    cohort.training[0]["label"] = save(tmp_path / "l.nii.gz", np.arange(280, dtype=np.int16).reshape(SHAPE))
    refused(cohort, r"found 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 270 more;")


def test_intensity_scale_in_the_header_is_applied(tmp_path: Path):
    path = Path(save(tmp_path / "scaled.nii", np.ones(SHAPE, np.int16)))
    patch_header(path, 112, np.float32(0.5).tobytes())  # scl_slope
    with pytest.raises(DataError, match=r"found 0\.5;"):
        check_cases([{"image": make_case(tmp_path, "a")["image"], "label": str(path)}], LABELS, 1)


def test_values_beyond_float32_are_infinite(cohort: Cohort, tmp_path: Path):
    voxels = np.ones(SHAPE)
    voxels[2, 3, 1:3] = -1.79e308
    cohort.unlabeled[0]["image"] = save(tmp_path / "pad.nii.gz", voxels)
    refused(
        cohort, r"pad.nii.gz: 2 of 280 intensities are NaN or infinite as float32 holds them, such as -1\.79e\+308;"
    )


def test_half_precision_is_read_and_its_infinity_found(cohort: Cohort, tmp_path: Path):
    voxels = np.arange(280, dtype=np.float16).reshape(SHAPE)
    cohort.unlabeled[0]["image"] = str(tmp_path / "half.npy")
    np.save(tmp_path / "half.npy", voxels)
    assert check_cohort(cohort, 1, progress=False) == []
    np.testing.assert_array_equal(LoadVolumed("image")(cohort.unlabeled[0])["image"], voxels)
    voxels[0, 0, 0] = np.inf
    np.save(tmp_path / "half.npy", voxels)
    refused(cohort, "half.npy: 1 of 280 intensities are NaN or infinite;")


def test_padding_is_refused_unless_a_window_clips_it(cohort: Cohort, tmp_path: Path):
    voxels = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    voxels[:2] = -3.4e38
    cohort.unlabeled[0]["image"] = save(tmp_path / "pad.nii.gz", voxels)
    message = r"pad.nii.gz: the value -3\.4e\+38 is so far from the others .*; replace .* or set intensity_window"
    refused(cohort, message)
    assert check_cohort(cohort, 1, progress=False, clipped=True) == []
    with pytest.raises(DataError, match=message):
        check_cases(cohort.unlabeled, LABELS, 1)
    assert check_cases(cohort.unlabeled, LABELS, 1, clipped=True).errors == []
