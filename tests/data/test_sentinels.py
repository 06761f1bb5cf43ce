"""Values that stand for missing data: found where the training's scaling would leave nothing of the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import ScaleIntensityRangePercentiles

from vqseg_bundle.data.checking.facts import find_sentinel

SHAPE = (20, 20, 20)
LOWEST = float(np.finfo(np.float32).min)


def tissue(low: float, high: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, SHAPE)


def padded(voxels: np.ndarray, value: float, share: float = 0.1) -> np.ndarray:
    voxels = voxels.copy()
    voxels.ravel()[: round(share * voxels.size)] = value
    return voxels


def find(voxels: np.ndarray) -> float | None:
    return find_sentinel(voxels, most_sampled=2**19)


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
    ("a hot spot, saturated", np.minimum(np.geomspace(1, 2e5, 8000).reshape(SHAPE), 32767)),
    ("constant", np.full(SHAPE, 7.0)),
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
    assert find(np.linspace(-3e38, 2e38, 8000).reshape(SHAPE)) == -3e38
    assert find(np.linspace(-1e38, 2e38, 8000).reshape(SHAPE)) is None


def test_one_channel_with_a_sentinel_is_enough():
    channels = np.stack([tissue(0, 255), padded(tissue(0, 255), LOWEST)], axis=-1)
    assert find(channels) == LOWEST


def test_a_sample_is_enough():
    assert find_sentinel(padded(tissue(0, 255), LOWEST), most_sampled=500) == LOWEST
