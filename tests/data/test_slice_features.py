"""Features of whole slices: the grid that they lie on, what is computed, how it is kept, and what is refused."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.data import MetaTensor

from vqseg_bundle.data import (
    SliceGridRule,
    compute_slice_features,
    missing_images,
    open_feature_store,
    slice_features,
)
from vqseg_bundle.data.features.slice_features import load_features, save_features

# 126 pixels of DINOv2 on a view of 128: 9 patches of 14.2 pixels
GRID_RULE = SliceGridRule(view_size=(128, 128), view_grid=(9, 9), max_side=37)


def test_a_slice_of_the_views_size_gets_the_views_grid():
    grid = GRID_RULE.choose((128, 128))
    assert (grid.side, grid.padded, grid.tokens) == (9, (128, 128), (9, 9))


def test_a_slice_that_is_not_square_is_padded_to_one_and_keeps_the_patches_that_cover_it():
    grid = GRID_RULE.choose((216, 256))
    assert (grid.side, grid.padded, grid.tokens) == (18, (256, 256), (16, 18))


@pytest.mark.parametrize("size", [(130, 40), (154, 224), (512, 428), (513, 129), (128, 500), (1, 1)])
def test_a_patch_spans_what_it_spans_in_a_view(size):
    grid = GRID_RULE.choose(size)
    for length, padded, tokens in zip(size, grid.padded, grid.tokens, strict=True):
        assert padded >= length
        assert padded / grid.side == pytest.approx(128 / 9, rel=0.02)
        assert (tokens - 1) * padded / grid.side < length <= tokens * padded / grid.side + 1e-6


def test_a_view_stretched_by_the_model_stretches_its_slices_alike():
    # 12 x 24 pixels on 6 x 6 patches: 2 x 4 pixels a patch
    grid = SliceGridRule((12, 24), (6, 6), 37).choose((20, 80))
    assert (grid.side, grid.padded, grid.tokens) == (20, (40, 80), (10, 20))


def test_above_the_models_largest_input_the_grid_gets_coarser():
    grid = GRID_RULE.choose((768, 500))
    assert (grid.side, grid.padded) == (37, (768, 768))
    assert grid.tokens == (37, math.ceil(500 * 37 / 768))


def test_a_grid_more_than_twice_as_coarse_is_refused():
    with pytest.raises(ValueError, match=r"\(1100, 900\) pixels needs 78 patches.* 2\.1 times coarser.*'exact'"):
        GRID_RULE.choose((1100, 900))


def test_coordinates_are_zero_and_whole_at_the_centers_of_patches():
    # 4 pixels a patch: centers at pixels 1.5, 5.5, 9.5
    grid = SliceGridRule((12, 12), (3, 3), 37).choose((12, 12))
    found = grid.coordinates(12, 0)
    torch.testing.assert_close(found[:2], torch.tensor([-0.375, -0.125]))
    torch.testing.assert_close((found[1::4] + found[2::4]) / 2, torch.tensor([0.0, 1.0, 2.0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 4), (2, 2), 3), r"view_size must hold two positive sizes, got \(0, 4\)"),
        (((4, 4), (2,), 3), r"view_grid must hold two positive sizes, got \(2,\)"),
        (((4, 4), (2, 2), 0), "max_side must be at least 1, got 0"),
    ],
)
def test_impossible_rules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SliceGridRule(*arguments)


# views of 8 pixels on 4 patches: 2 pixels a patch
RULE = SliceGridRule((8, 8), (4, 4), 10)


SIZES = {"a": (8, 12, 3), "b": (8, 8, 2), "c": (5, 12, 1)}


class PatchMeans(torch.nn.Module):
    """Mean and maximum of each of ``side`` x ``side`` patches; counts the images it sees."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.batches: list[int] = []
        self.inference: list[bool] = []

    def forward(self, images):
        self.batches.append(len(images))
        self.inference.append(torch.is_inference_mode_enabled())
        size = (self.side, self.side)
        return torch.cat([F.adaptive_avg_pool2d(images, size), F.adaptive_max_pool2d(images, size)], 1)


class Models:
    def __init__(self) -> None:
        self.built: list[PatchMeans] = []

    def __call__(self, side: int) -> PatchMeans:
        self.built.append(PatchMeans(side))
        return self.built[-1]


def read(item: dict[str, str]) -> dict[str, MetaTensor]:
    """Voxels are 100 x slice + row + column / 100."""
    axes = torch.meshgrid(*[torch.arange(n).float() for n in SIZES[Path(item["image"]).name]], indexing="ij")
    return {"image": MetaTensor((100 * axes[2] + axes[0] + axes[1] / 100).unsqueeze(0))}


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in SIZES]
    for path in paths:
        path.write_text(path.name)
    return [str(path) for path in paths]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "features"


def opened(folder, images, **made_by):
    return open_feature_store(folder, images, RULE, {"model": "means", **made_by})


def compute(store, **settings):
    models = Models()
    settings = {"transform": read, "build_model": models, "channels": 2, "limit_gb": 1.0, **settings}
    compute_slice_features(store, **settings)
    return models.built


def test_every_slice_gets_the_features_of_its_patches(folder, images):
    store = opened(folder, images)
    compute(store)
    stored = load_features(store.path(images[0]))
    assert stored.shape == (3, 2, 4, 6)
    assert stored.dtype == np.float16
    rows, columns = 2 * np.arange(4) + 0.5, 2 * np.arange(6) + 0.5
    expected = 100 * np.arange(3)[:, None, None] + rows[:, None] + columns / 100
    np.testing.assert_allclose(stored[:, 0], expected, rtol=1e-3)
    assert isinstance(stored, np.memmap)


def test_padding_takes_the_slices_own_minimum_and_is_cut_off_again():
    grid = RULE.choose((5, 12))
    assert (grid.side, grid.padded, grid.tokens) == (6, (12, 12), (3, 6))
    model = PatchMeans(6)
    volume = torch.rand(1, 5, 12, 2) + torch.tensor([10.0, 20.0])
    found = slice_features(volume, grid, model)
    assert found.shape == (2, 2, 3, 6)
    low = volume.amin((1, 2)).squeeze(0)
    last = volume[0, 4].unflatten(0, (6, 2)).mean(1)  # (6, 2): the last row's pixels; below it lies padding
    np.testing.assert_allclose(found[:, 0, 2], ((last + low) / 2).T, rtol=1e-5)


def test_slices_pass_in_batches_without_gradient_bookkeeping(folder, images):
    built = compute(opened(folder, images), batch_size=2)
    # a model for each grid, in the order of their sides: case b has 4 patches a side, a and c have 6
    assert [(model.side, model.batches) for model in built] == [(4, [2]), (6, [2, 1, 1])]
    assert all(flag for model in built for flag in model.inference)


def test_finished_files_are_not_computed_again_by_this_or_another_run(folder, images):
    store = opened(folder, images[:2])
    compute(store)
    stamps = {image: store.path(image).stat().st_mtime_ns for image in store.files}
    again = opened(folder, images)
    assert missing_images(again) == [images[2]]
    assert sum(sum(model.batches) for model in compute(again)) == 1
    assert {image: again.path(image).stat().st_mtime_ns for image in stamps} == stamps
    assert compute(again) == []


def test_a_file_is_named_by_the_images_content_and_by_what_made_it(folder, images, tmp_path):
    store = opened(folder, images)
    copy = tmp_path / "moved"
    copy.write_text("a")
    assert opened(folder, [str(copy)]).path(str(copy)) == store.path(images[0])
    assert opened(folder, images, weights="x").path(images[0]) != store.path(images[0])
    other_rule = open_feature_store(folder, images, SliceGridRule((8, 8), (2, 2), 10), {"model": "means"})
    assert other_rule.path(images[0]) != store.path(images[0])
    Path(images[0]).write_text("changed")
    assert opened(folder, images).path(images[0]) != store.path(images[0])
    assert opened(folder, images).path(images[1]) == store.path(images[1])


def test_processes_share_the_work_whatever_is_there_already(folder, images):
    store = opened(folder, images)
    seen = []
    for rank in (0, 1):
        seen.append(sum(sum(model.batches) for model in compute(store, rank=rank, world=2)))
    assert seen == [4, 2]
    assert missing_images(store) == []


def test_worker_processes_read_the_same(folder, images):
    store = opened(folder, images)
    compute(store)
    expected = {image: np.array(load_features(store.path(image))) for image in images}
    for image in images:
        store.path(image).unlink()
    compute(store, num_workers=2)
    for image in images:
        np.testing.assert_array_equal(load_features(store.path(image)), expected[image])


def test_random_states_stay_as_they_are(folder, images):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    compute(opened(folder, images))
    assert torch.equal(torch.get_rng_state(), before)


def test_too_small_a_limit_is_refused_before_any_work(folder, images):
    store = opened(folder, images)
    # tokens: a 3 x 4 x 6, b 2 x 4 x 4, c 1 x 3 x 6 (slices x rows x columns); 2 channels of 2 bytes
    need = 4 * (72 + 32 + 18)
    with pytest.raises(ValueError, match=r"foundation_feature_gb is 4\.87e-07.* 3 cases take 4\.88e-07 GB.*'exact'"):
        compute(store, limit_gb=(need - 1) / 1e9)
    assert missing_images(store) == images
    compute(store, limit_gb=need / 1e9)
    sizes = [load_features(store.path(image)).nbytes for image in images]
    assert sum(sizes) == need


def test_files_that_are_there_count_towards_the_limit(folder, images):
    compute(opened(folder, images[:2]))
    with pytest.raises(ValueError, match="foundation_feature_gb is 4e-07, but the features of 3 cases"):
        compute(opened(folder, images), limit_gb=400 / 1e9)


def test_it_says_how_much_there_is_to_do(folder, images, caplog):
    with caplog.at_level(logging.INFO):
        compute(opened(folder, images))
    assert "3 of 3 cases to compute, 4.88e-07 GB in all" in caplog.text


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save_features(tmp_path / "x.npy", np.zeros((1, 1, 1, 1)))
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_features_beyond_float16_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"features up to 70000 do not fit float16.*'exact'"):
        save_features(tmp_path / "x.npy", np.full((1, 1, 1, 1), 7e4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY\x01\x00v\x00{'descr'", b"hello"])
def test_a_missing_or_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "x.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npy: these foundation-model features are missing or damaged"):
        load_features(path)


def test_a_store_of_what_json_cannot_hold_is_refused(folder, images):
    with pytest.raises(ValueError, match="made_by must hold what JSON can"):
        opened(folder, images, weights=object())
