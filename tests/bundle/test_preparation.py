"""How training and inference normalise a volume, and how a training turns and mirrors views."""

from __future__ import annotations

import pickle
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, MaskIntensityd
from support.bundle_runs import CONFIGS
from support.data_parts import write_volume

from vqseg_bundle.bundle import mirrored_sides
from vqseg_bundle.bundle.settings.named_sides import mirrored_copies

PREPROCESSING: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "orientation": None,
    "slice_axis": 2,
    "spacing": None,
    "image_size": None,
    "patch_size": [4, 4],
    "intensity_window": None,
    "intensity_statistics": None,
    "normalize_nonzero": False,
}


def steps(**changes: Any) -> list[Compose]:
    """What training and inference do to a volume."""
    settings = {**PREPROCESSING, **changes}
    train, infer = ConfigParser(), ConfigParser()
    train.read_config(str(CONFIGS / "train.json"))
    own = {key: value for key, value in settings.items() if key not in ("orientation", "slice_axis")}
    train.update({**own, "chosen_orientation": None, "chosen_slice_axis": 2, "device": "cpu", "label_padding": 0})
    transforms = [*train.get_parsed_content("load_image"), *train.get_parsed_content("volume_transforms")]
    infer.read_config(str(CONFIGS / "inference.json"))
    infer.update({"model_record": {"preprocessing": settings}, "chosen_orientation": None, "device": "cpu"})
    return [Compose(transforms), infer.get_parsed_content("preprocessing")]


def normalised(image: Path, **changes: Any) -> list[np.ndarray]:
    """A volume as training and as inference normalise it."""
    return [np.asarray(transform({"image": str(image)})["image"])[0] for transform in steps(**changes)]


def test_training_and_inference_standardise_ct_by_the_cohort_s_figures(tmp_path: Path) -> None:
    voxels = np.arange(-1000, 1000, 4).reshape(10, 10, 5).astype(np.int16)
    image = write_volume(tmp_path / "a.nii.gz", voxels, np.diag([1.0, 1.0, 5.0, 1.0]))
    for found in normalised(image, intensity_window=[-100, 300], intensity_statistics=[40.0, 80.0]):
        np.testing.assert_allclose(found, (np.clip(voxels, -100, 300) - 40) / 80, atol=1e-4)


@pytest.mark.parametrize("first, window", [(101, None), (-79, None), (101, [-50, 240])])
def test_training_and_inference_leave_zeros_out_of_mean_and_deviation(
    tmp_path: Path, first: int, window: list[int] | None
) -> None:
    """Also where zero is not the lowest value, so that scaling to [0, 1] moves it."""
    voxels = np.zeros((12, 12, 5), np.int16)
    voxels[4:8, 4:8] = np.arange(first, first + 160, 2).reshape(4, 4, 5)
    image = write_volume(tmp_path / "a.nii.gz", voxels, np.diag([1.0, 1.0, 5.0, 1.0]))
    for found in normalised(image, normalize_nonzero=True, intensity_window=window):
        inside = found[voxels != 0]
        assert (inside.mean(), inside.std()) == pytest.approx((0, 1), abs=1e-4)
        assert (np.diff(inside) >= 0).all()  # the darkest, which are clipped, too
        assert np.unique(found[voxels == 0]).tolist() == [0]
    assert first < 0 or abs(normalised(image, intensity_window=window)[0][voxels != 0].mean()) > 1


def test_what_leaves_zeros_out_can_be_sent_to_other_processes() -> None:
    """By pickle, as macOS and Windows start those that load data."""
    image = torch.tensor([[-1.0, -0.0, 0.0, 0.5, 2.0]])
    for transform in steps(normalize_nonzero=True):
        sent = pickle.loads(pickle.dumps(transform))
        (mask,) = [step for step in sent.transforms if isinstance(step, MaskIntensityd)]
        assert mask({"image": image + 3, "unscaled": image})["image"].tolist() == [[2.0, 0.0, 0.0, 3.5, 5.0]]


@pytest.mark.parametrize("dims", [2, 3])
def test_views_are_mirrored_along_each_axis(dims: int) -> None:
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "train.json"))
    sizes = {"spatial_dims": dims, "patch_size": [4] * dims, "foundation_cache": None}
    parser.update({**sizes, "mirroring": 0.5})
    mirror = Compose(parser.get_parsed_content("geometric_transforms")[-dims:]).set_random_state(0)
    image = torch.arange(4.0**dims).view(1, *[4] * dims)
    found = [mirror({"image": image, "label": image}) for _ in range(80)]
    subsets = chain.from_iterable(combinations(range(1, dims + 1), count) for count in range(dims + 1))
    mirrored = {tuple(torch.flip(image, axes).flatten().tolist()) for axes in subsets}
    assert {tuple(each["image"].flatten().tolist()) for each in found} == mirrored
    assert all(torch.equal(each["image"], each["label"]) for each in found)


def test_mirroring_classes_that_name_a_side_is_warned_of() -> None:
    labels = ["background", "left kidney", "Right-kidney", "kidney_left", "bright spot"]
    (warning,) = mirrored_sides(labels, 0.5)
    assert warning.startswith("mirroring 0.5: left kidney, Right-kidney, kidney_left name a side")
    assert mirrored_sides(labels, 0.0) == mirrored_sides(labels[::4], 0.5) == []


def test_averaging_mirrored_copies_of_classes_that_name_a_side_is_warned_of() -> None:
    (warning,) = mirrored_copies(["background", "left kidney", "liver"], [0, 1])
    assert warning.startswith("mirror_axes [0, 1]: left kidney name a side, which copies mirrored from left to right")
    assert mirrored_copies(["background", "left kidney"], []) == mirrored_copies(["background", "liver"], [0]) == []


def test_quarter_turns_turn_image_and_label_alike() -> None:
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "train.json"))
    parser.update({"spatial_dims": 2, "patch_size": [4, 4], "foundation_cache": None, "quarter_turns": 1.0})
    turn = parser.get_parsed_content("geometric_transforms")[-1]
    turn.set_random_state(0)
    image = torch.arange(16.0).view(1, 4, 4)
    found = [turn({"image": image, "label": image}) for _ in range(20)]
    turned = {tuple(torch.rot90(image, count, (1, 2)).flatten().tolist()) for count in (1, 2, 3)}
    assert {tuple(each["image"].flatten().tolist()) for each in found} == turned
    assert all(torch.equal(each["image"], each["label"]) for each in found)
