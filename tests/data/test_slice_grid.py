"""The grid of a whole slice: as fine as a view's, square, and covering."""

from __future__ import annotations

import math

import pytest
import torch

from vqseg_bundle.data import SliceGridRule

# 126 pixels of DINOv2 on a view of 128: 9 patches of 14.2 pixels
RULE = SliceGridRule(view_size=(128, 128), view_grid=(9, 9), max_side=37)


def test_a_slice_of_the_views_size_gets_the_views_grid():
    grid = RULE.choose((128, 128))
    assert (grid.side, grid.padded, grid.tokens) == (9, (128, 128), (9, 9))


def test_a_slice_that_is_not_square_is_padded_to_one_and_keeps_the_patches_that_cover_it():
    grid = RULE.choose((216, 256))
    assert (grid.side, grid.padded, grid.tokens) == (18, (256, 256), (16, 18))


@pytest.mark.parametrize("size", [(130, 40), (154, 224), (512, 428), (513, 129), (128, 500), (1, 1)])
def test_a_patch_spans_what_it_spans_in_a_view(size):
    grid = RULE.choose(size)
    for length, padded, tokens in zip(size, grid.padded, grid.tokens, strict=True):
        assert padded >= length
        assert padded / grid.side == pytest.approx(128 / 9, rel=0.02)
        assert (tokens - 1) * padded / grid.side < length <= tokens * padded / grid.side + 1e-6


def test_a_view_stretched_by_the_model_stretches_its_slices_alike():
    # 12 x 24 pixels on 6 x 6 patches: 2 x 4 pixels a patch
    grid = SliceGridRule((12, 24), (6, 6), 37).choose((20, 80))
    assert (grid.side, grid.padded, grid.tokens) == (20, (40, 80), (10, 20))


def test_above_the_models_largest_input_the_grid_gets_coarser():
    grid = RULE.choose((768, 500))
    assert (grid.side, grid.padded) == (37, (768, 768))
    assert grid.tokens == (37, math.ceil(500 * 37 / 768))


def test_a_grid_more_than_twice_as_coarse_is_refused():
    with pytest.raises(ValueError, match=r"\(1100, 900\) pixels needs 78 patches.* 2\.1 times coarser.*'exact'"):
        RULE.choose((1100, 900))


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
