"""What the data check says of intensities and label values, of values that stand for missing data among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import ScaleIntensityRangePercentiles
from support.data_parts import LABELS, SHAPE, make_case, make_cohort, patch_header, refused, save

from vqseg_bundle.data import Cohort, DataError, LoadVolumed, check_cases, check_cohort, read_voxels
from vqseg_bundle.data.checking import intensities
from vqseg_bundle.data.checking.intensities import find_sentinel, ordered_sample, percentiles
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
    refused(cohort, "found -1, 0, 1, 7; class indices start at 0: correct the file")


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


CUBE = (20, 20, 20)


LOWEST = float(np.finfo(np.float32).min)


def tissue(low: float, high: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, CUBE)


def padded(voxels: np.ndarray, value: float, share: float = 0.1) -> np.ndarray:
    voxels = voxels.copy()
    voxels.ravel()[: round(share * voxels.size)] = value
    return voxels


def find(voxels: np.ndarray) -> float | None:
    channels = np.moveaxis(voxels, 3, 0) if voxels.ndim > 3 else [voxels]
    return next((value for value in map(find_sentinel, map(ordered_sample, channels)) if value is not None), None)


def contrast_when_scaled(voxels: np.ndarray, value: float) -> float:
    """What the training's scaling leaves between the 5 and 95 percentiles of all but one value, of 1 without it."""
    scale = ScaleIntensityRangePercentiles(0.5, 99.5, 0.0, 1.0, clip=True, channel_wise=True)
    scaled = np.asarray(scale(torch.from_numpy(voxels.astype(np.float32)[None])))[0]
    return float(np.subtract(*np.percentile(scaled[voxels != value], [95, 5])))


FOUND = [
    ("float32's lowest", padded(tissue(0, 255), LOWEST), LOWEST),
    ("float32's highest", padded(tissue(0, 255), -LOWEST), -LOWEST),
    ("-3.4e38 beside a clipped top", padded(np.minimum(tissue(0, 255), 200), -3.4e38), -3.4e38),
    ("in an image of two values", padded((tissue(0, 1) > 0.5) * 1.0, -1e10), -1e10),
    ("in a sparse image", padded(np.where(tissue(0, 1) < 0.97, 0.0, 1000.0), -1e10), -1e10),
    ("-9999 in an image of 0 to 1", padded(tissue(0, 1), -9999), -9999.0),
    ("int16's lowest in an MRI of 0 to 255", padded(tissue(0, 255), -32768), -32768.0),
    ("with a blurred edge", padded(padded(tissue(0, 255), -1.5e38, 0.14), LOWEST), LOWEST),
    ("as integers", padded(tissue(0, 9), -(10**6)).astype(np.int32), -1e6),
    ("of few voxels", padded(tissue(0, 255), LOWEST, 0.006), LOWEST),
]


PASSED = [
    ("none", tissue(-1000, 2000)),
    ("air outside the field of view", padded(tissue(-1000, 2000), -2000)),
    ("int16's lowest in Hounsfield units", padded(tissue(-1000, 2000), -32768)),
    ("metal", padded(tissue(-1000, 2000), 30000)),
    ("background of an MRI", padded(tissue(1, 2000), 0, 0.9)),
    ("a clipped top", np.minimum(tissue(0, 255), 200)),
    ("two values", (tissue(0, 1) > 0.5) * 1000.0),
    ("sparse", np.where(tissue(0, 1) < 0.97, 0.0, 1000.0)),
    ("a hot spot, saturated", np.minimum(np.geomspace(1, 2e5, 8000).reshape(CUBE), 32767)),
    ("constant", np.full(CUBE, 7.0)),
    ("so few voxels that the percentiles leave them out", padded(tissue(0, 255), LOWEST, 0.001)),
]


@pytest.mark.parametrize(("voxels", "value"), [case[1:] for case in FOUND], ids=[case[0] for case in FOUND])
def test_a_sentinel_is_found_where_it_leaves_nothing_of_the_contrast(voxels: np.ndarray, value: float):
    assert find(voxels) == value
    assert contrast_when_scaled(voxels, value) < 1e-2


@pytest.mark.parametrize("voxels", [case[1] for case in PASSED], ids=[case[0] for case in PASSED])
def test_other_extremes_are_left_alone(voxels: np.ndarray):
    assert find(voxels) is None


def test_a_range_that_float32_cannot_hold_is_found():
    # both ends fit, their difference does not
    assert find(np.linspace(-3e38, 2e38, 8000).reshape(CUBE)) == -3e38
    assert find(np.linspace(-1e38, 2e38, 8000).reshape(CUBE)) is None


def test_one_channel_with_a_sentinel_is_enough():
    channels = np.stack([tissue(0, 255), padded(tissue(0, 255), LOWEST)], axis=-1)
    assert find(channels) == LOWEST


def test_a_sample_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intensities, "_MOST_VOXELS_SAMPLED", 500)
    assert find(padded(tissue(0, 255), LOWEST)) == LOWEST


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.float32, np.float64])
def test_percentiles_are_numpy_s(dtype: type) -> None:
    values = np.random.default_rng(0).uniform(-100, 100, 1001).astype(dtype)
    wanted = [0, 0.25, 50, 99.5, 100]
    np.testing.assert_allclose(percentiles(np.sort(values), *wanted), np.percentile(values, wanted), rtol=1e-6)
    assert percentiles(np.array([7]), 0.5, 99.5).tolist() == [7, 7]


def test_images_on_their_side_are_named_where_no_labelled_one_is(tmp_path: Path):
    def image(name: str, *shape: int) -> str:
        return save(tmp_path / f"{name}.nii.gz", np.random.default_rng(len(name)).normal(size=shape), np.eye(4))

    def case(name: str, *shape: int) -> dict[str, str]:
        label = save(tmp_path / f"{name}_label.nii.gz", np.ones(shape, np.uint8), np.eye(4))
        return {"image": image(name, *shape), "label": label, "case": name, "patient": name}

    cohort = Cohort("scans", {0: "background", 1: "organ"}, training=[case("upright", 30, 20, 5)])
    others = {"tall": (36, 22, 5), "squarer": (20, 21, 5), "lying": (20, 30, 5)}
    for name, shape in others.items():
        cohort.unlabeled.append({"image": image(name, *shape), "case": name, "patient": name})
    (warning,) = [text for text in check_cohort(cohort, 1, level="headers") if "turned" in text]
    assert "1 file is turned by a quarter" in warning
    assert f"{tmp_path / 'lying.nii.gz'}: 20 x 30" in warning
    cohort.training.append(case("sideways", 20, 30, 5))
    assert not any("turned" in text for text in check_cohort(cohort, 1, level="headers"))


@pytest.mark.parametrize(
    ("shape", "axis"), [((512, 64, 64), 0), ((64, 64, 512), 2), ((64, 512, 128), 1), ((7, 8, 9), 0)]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_sample_is_of_the_whole_volume(shape: tuple[int, int, int], axis: int, order: str) -> None:
    """The values rise along one axis, and have the same share of the sample and of the volume, to five deviations."""
    ramp = np.arange(shape[axis]).reshape([-1 if other == axis else 1 for other in range(3)])
    voxels = np.asarray(np.broadcast_to(ramp, shape), dtype=np.int16, order=order)
    sample = ordered_sample(voxels)
    assert len(sample) == min(2**15, voxels.size)
    assert np.all(np.diff(sample) >= 0)
    counts = np.bincount(sample, minlength=shape[axis])
    share = 1 / shape[axis]
    spread = 5 * np.sqrt(len(sample) * share * (1 - share))
    assert np.abs(counts - len(sample) * share).max() <= spread
