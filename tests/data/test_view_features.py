"""Features of views sampled from those of whole slices, on fields known in closed form; batches know their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.transforms import (
    Affined,
    Compose,
    EnsureTyped,
    Flipd,
    Rand2DElasticd,
    RandAffined,
    RandSpatialCropd,
    Resized,
    Rotate90d,
    SpatialCropd,
    SqueezeDimd,
)

from vqseg_bundle.common import FEATURES
from vqseg_bundle.data import (
    COORDINATE_KEYS,
    AddTokenCoordinatesd,
    FoundationFeatureStore,
    JoinTokenCoordinatesd,
    KeepSourced,
    SampleFoundationFeaturesd,
    SliceGridRule,
    sample_features,
)
from vqseg_bundle.data.features.slice_features import save_features

SIZE = (60, 48, 5)
# 32 pixels of a view on 8 patches: 4 pixels a patch
RULE = SliceGridRule((32, 32), (8, 8), 37)
GRID = (8, 8)
EVERY_KEY = ["image", *COORDINATE_KEYS]


@pytest.fixture
def store(tmp_path: Path) -> FoundationFeatureStore:
    """Features that are the row, the column and the number of the slice at a patch's center, in voxels."""
    rows, columns = RULE.choose(SIZE[:2]).tokens
    assert (rows, columns) == (15, 12)
    row, column = 4 * np.arange(rows) + 1.5, 4 * np.arange(columns) + 1.5
    field = np.stack(np.broadcast_arrays(row[:, None], column[None, :]))  # (2, h, w)
    stored = np.stack([np.concatenate([field, np.full((1, rows, columns), k)]) for k in range(SIZE[2])])
    save_features(tmp_path / "case.npy", stored)
    return FoundationFeatureStore(tmp_path, {"case.nii.gz": "case.npy"}, RULE)


def volume() -> MetaTensor:
    """An image whose channels are its own voxel coordinates."""
    axes = torch.meshgrid(*[torch.arange(length, dtype=torch.float32) for length in SIZE], indexing="ij")
    return MetaTensor(torch.stack(axes), meta={"filename_or_obj": "case.nii.gz"})


def view_of(store: FoundationFeatureStore, *moves, first=(), depth=None, flat=True) -> dict:
    crop = [*first] if first else [SpatialCropd(EVERY_KEY, roi_start=(10, 7, 2), roi_end=(42, 39, 3))]
    squeeze = [SqueezeDimd("image", dim=-1)] if flat else []
    chain = [AddTokenCoordinatesd(store), *crop, JoinTokenCoordinatesd(), *squeeze, *moves]
    return Compose([*chain, SampleFoundationFeaturesd(GRID, depth)])({"image": volume()})


def at_patch_centers(view: torch.Tensor) -> torch.Tensor:
    """What a view shows at the centers of its patches: the mean of the 2 x 2 pixels around each."""
    step = view.shape[1] // GRID[0]
    low = step // 2 - 1
    corners = [view[:, low + i :: step, low + j :: step] for i in (0, 1) for j in (0, 1)]
    return torch.stack([torch.as_tensor(corner.as_subclass(torch.Tensor)) for corner in corners]).mean(0)


def test_a_crop_gets_the_features_at_its_own_places(store):
    view = view_of(store)
    features = view[FEATURES]
    assert features.shape == (3, 8, 8)
    assert features.dtype == torch.float32
    # the first patch's center lies at 10 + 1.5 and 7 + 1.5, the next ones 4 pixels on
    torch.testing.assert_close(features[0, :, 0], 11.5 + 4 * torch.arange(8.0))
    torch.testing.assert_close(features[1, 0, :], 8.5 + 4 * torch.arange(8.0))
    assert (features[2] == 2).all()
    assert set(view) == {"image", FEATURES}
    assert view["image"].shape == (3, 32, 32)


MOVES = {
    "flip": [Flipd("image", spatial_axis=0)],
    "quarter turn": [Rotate90d("image", k=1)],
    "rotation": [Affined("image", rotate_params=0.3, padding_mode="border")],
    "scaling": [Affined("image", scale_params=(0.8, 0.9), padding_mode="border")],
    "shift": [Affined("image", translate_params=(1.7, -2.2), padding_mode="border")],
    "shear": [Affined("image", shear_params=(0.1, 0.05), padding_mode="border")],
    "another size": [Resized("image", spatial_size=(64, 64), mode="bilinear")],
    "without meta data": [EnsureTyped("image", track_meta=False), Affined("image", rotate_params=0.2)],
}


@pytest.mark.parametrize("name", MOVES)
def test_what_moves_the_image_moves_the_features(store, name):
    view = view_of(store, *MOVES[name])
    expected = at_patch_centers(view["image"])
    torch.testing.assert_close(view[FEATURES], expected, rtol=0, atol=2e-3)


def test_a_warp_that_is_not_affine_moves_them_too(store):
    elastic = Rand2DElasticd("image", spacing=8, magnitude_range=(1, 2), prob=1.0, padding_mode="border")
    elastic.set_random_state(seed=1)
    view = view_of(store, elastic)
    straight = view_of(store)
    assert (view[FEATURES] - straight[FEATURES]).abs().max() > 0.5
    torch.testing.assert_close(view[FEATURES], at_patch_centers(view["image"]), rtol=0, atol=2e-3)


def test_a_flip_of_a_whole_slice_reverses_the_features(store):
    whole = SpatialCropd(EVERY_KEY, roi_start=(0, 0, 1), roi_end=(32, 32, 2))
    straight, flipped = (view_of(store, *moves, first=[whole])[FEATURES] for moves in ([], MOVES["flip"]))
    torch.testing.assert_close(flipped, straight.flip(1))


@pytest.mark.parametrize(("depth", "slices"), [(None, [1, 2, 3, 4]), (2, [2, 4]), (1, [3])])
def test_a_volume_gets_the_central_slices_of_equal_parts(store, depth, slices):
    crop = SpatialCropd(EVERY_KEY, roi_start=(10, 7, 1), roi_end=(42, 39, 5))
    features = view_of(store, first=[crop], depth=depth, flat=False)[FEATURES]
    assert features.shape == (3, 8, 8, len(slices))
    torch.testing.assert_close(features[2, 3, 4], torch.tensor(slices, dtype=torch.float32))
    torch.testing.assert_close(features[0, :, 0, 0], 11.5 + 4 * torch.arange(8.0))


def test_a_volume_scaled_across_slices_gets_features_between_slices(store):
    crop = SpatialCropd(EVERY_KEY, roi_start=(10, 7, 0), roi_end=(42, 39, 5))
    move = Affined("image", rotate_params=(0, 0, 0.2), scale_params=(0.9, 0.9, 0.7), padding_mode="border")
    view = view_of(store, move, first=[crop], flat=False)
    expected = torch.stack([at_patch_centers(plane) for plane in view["image"].unbind(-1)], dim=-1)
    assert not torch.allclose(expected[2], expected[2].round(), atol=0.1)
    torch.testing.assert_close(view[FEATURES], expected, rtol=0, atol=2e-3)


def test_beyond_the_last_center_the_last_feature_holds(store):
    stored = np.load(store.path("case.nii.gz"))
    places = torch.tensor([[-5.0, 3.0, 99.0], [2.0, -1.0, 99.0], [0.0, -2.0, 7.0]]).view(3, 3, 1, 1)
    found = sample_features(stored, places)[..., 0, 0]
    torch.testing.assert_close(found[:, 0], torch.from_numpy(stored[0, :, 0, 2]).float())
    torch.testing.assert_close(found[:, 1], torch.from_numpy(stored[0, :, 3, 0]).float())
    torch.testing.assert_close(found[:, 2], torch.from_numpy(stored[4, :, -1, -1]).float())


def test_only_the_slices_needed_are_read(store):
    class Reads(np.ndarray):
        def __getitem__(self, key):
            taken.append(key)
            return super().__getitem__(key)

    taken: list[slice] = []
    stored = np.load(store.path("case.nii.gz")).view(Reads)
    # a constant that interpolation rounded is still one slice
    sample_features(stored, torch.tensor([4.0, 5.0, 3.0000002]).view(3, 1, 1, 1))
    assert taken[0] == slice(3, 4)


@pytest.mark.parametrize("flat", [True, False])
def test_views_are_drawn_as_without_the_features(store, flat):
    crop, drawn = (32, 32, 1 if flat else 4), {}
    squeeze = [SqueezeDimd("image", dim=-1)] if flat else []
    for name in ("without", "with"):
        used = name == "with"
        chain = [
            *([AddTokenCoordinatesd(store)] if used else []),
            RandSpatialCropd(EVERY_KEY, crop, random_size=False, allow_missing_keys=True),
            *([JoinTokenCoordinatesd()] if used else []),
            *squeeze,
            RandAffined("image", prob=0.8, rotate_range=0.3, scale_range=[0.1] * (2 if flat else 3), mode="bilinear"),
            *([SampleFoundationFeaturesd(GRID)] if used else []),
        ]
        transform = Compose(chain).set_random_state(seed=3)
        drawn[name] = [transform({"image": volume()})["image"].as_subclass(torch.Tensor) for _ in range(6)]
    for ours, plain in zip(drawn["with"], drawn["without"], strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=0)
    assert not torch.equal(drawn["with"][0], drawn["with"][1])


def test_coordinates_are_views_that_take_no_memory_before_the_crop(store):
    item = AddTokenCoordinatesd(store)({"image": volume()})
    for key, length in zip(COORDINATE_KEYS, SIZE, strict=True):
        assert item[key].shape == (1, *SIZE)
        assert item[key].untyped_storage().nbytes() == 4 * length


def test_a_crop_that_leaves_the_coordinates_behind_is_refused(store):
    with pytest.raises(RuntimeError, match="JoinTokenCoordinatesd") as caught:
        view_of(store, first=[SpatialCropd("image", roi_start=(10, 7, 2), roi_end=(42, 39, 3))])
    assert "its coordinates" in str(caught.value.__cause__)
    assert "Name the keys row, column, slice beside image" in str(caught.value.__cause__)


def test_coordinates_that_were_never_joined_are_refused(store):
    item = AddTokenCoordinatesd(store)({"image": volume()})
    with pytest.raises(ValueError, match="Put JoinTokenCoordinatesd first into geometric_transforms"):
        SampleFoundationFeaturesd(GRID)(item)


def test_joining_without_coordinates_is_refused():
    with pytest.raises(ValueError, match=r"its coordinates \{\}"):
        JoinTokenCoordinatesd()({"image": volume()})


def test_an_image_that_the_store_does_not_know_is_refused(store):
    image = volume()
    image.meta["filename_or_obj"] = "other.nii.gz"
    with pytest.raises(ValueError, match=r'other\.nii\.gz: its foundation-model .* "training" or "unlabeled"'):
        AddTokenCoordinatesd(store)({"image": image})


def test_batches_know_the_files_of_their_images():
    images = [MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": name}) for name in ("a.nii.gz", "b.nii.gz")]
    batch = list_data_collate([KeepSourced("image")({"image": image}) for image in images])
    assert batch["source"] == ["a.nii.gz", "b.nii.gz"]


def test_an_image_without_meta_data_is_of_no_file():
    case = {"image": torch.zeros(1, 2, 2)}
    assert KeepSourced("image", "file")(case)["file"] == ""
    assert list(case) == ["image"]
