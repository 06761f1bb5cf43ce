"""HD95 and ASD, compared with closed forms and with an own computation by distance transforms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage
from support.report_parts import class_metrics

from vqseg_bundle.handlers.metrics import ClassMetrics, compute_case_metrics

Spacing = tuple[float, ...]


SPACINGS: list[Spacing] = [(1.0, 1.0, 1.0), (0.5, 2.0, 5.0), (3.0, 0.25, 1.0)]


def surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask, ndimage.generate_binary_structure(mask.ndim, 1), border_value=0)


def reference(pred: np.ndarray, label: np.ndarray, spacing: Spacing) -> tuple[float, float]:
    """HD95 and ASD, by a distance transform of each surface; axes of one voxel are left out."""
    axes = [axis for axis, count in enumerate(pred.shape) if count > 1]
    first, second = surface(pred.squeeze()), surface(label.squeeze())
    sampling = [spacing[axis] for axis in axes]
    there = ndimage.distance_transform_edt(~second, sampling=sampling)[first]
    back = ndimage.distance_transform_edt(~first, sampling=sampling)[second]
    return max(np.percentile(there, 95), np.percentile(back, 95)), np.concatenate([there, back]).mean()


def measure(pred: np.ndarray, label: np.ndarray, spacing: Spacing) -> ClassMetrics:
    maps = (torch.from_numpy(mask[None].astype(np.uint8)) for mask in (pred, label))
    (metrics,) = compute_case_metrics(*maps, 2, spacing)
    return metrics


def ellipsoid(shape: tuple[int, ...], spacing: Spacing, semi_axes: Spacing) -> np.ndarray:
    """All voxels whose centers lie within an ellipsoid (mm) about the image's middle voxel."""
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij")
    parts = [
        ((index - count // 2) * size / axis) ** 2
        for index, count, size, axis in zip(grid, shape, spacing, semi_axes, strict=True)
    ]
    return np.sum(parts, axis=0) <= 1


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thickness", [1.0, 5.0])
def test_discs_of_one_slice_are_measured_in_their_plane(axis: int, thickness: float):
    y, x = np.mgrid[:128, :128]
    inner, outer = ((y - 64) ** 2 + (x - 64) ** 2 < radius**2 for radius in (30, 40))
    spacing = [1.0, 1.0]
    spacing.insert(axis, thickness)
    volume = measure(np.expand_dims(inner, axis), np.expand_dims(outer, axis), tuple(spacing))
    assert (volume.values["hd95_mm"], volume.values["asd_mm"]) == pytest.approx((10.198, 9.854), abs=5e-4)
    assert volume == measure(inner, outer, (1.0, 1.0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_missed_structure_of_one_slice_costs_the_diagonal_of_its_plane(axis: int):
    plane = np.zeros((30, 40), bool)
    plane[3, 4] = True
    spacing = [1.0, 1.0]
    spacing.insert(axis, 700.0)
    label = np.expand_dims(plane, axis)
    missed = measure(np.zeros_like(label), label, tuple(spacing))
    assert (missed.status, missed.values["hd95_mm"], missed.values["asd_mm"]) == ("missed", 50.0, 50.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0), (1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
def test_concentric_balls_are_as_far_apart_as_their_radii(spacing: Spacing):
    shape = tuple(int(2 * 18 / size) + 3 for size in spacing)
    inner, outer = (ellipsoid(shape, spacing, (radius,) * len(shape)) for radius in (10.0, 16.0))
    found = measure(inner, outer, spacing)
    assert found.values["hd95_mm"] == pytest.approx(6.0, abs=max(spacing))
    assert found.values["asd_mm"] == pytest.approx(6.0, abs=max(spacing))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
def test_concentric_ellipsoids_are_apart_by_the_growth_of_their_axes(spacing: Spacing):
    # each semi-axis grows by a quarter: by 2, 3 and 4 mm; no point of either surface is further from the other
    axes = (8.0, 12.0, 16.0)
    shape = tuple(int(2.5 * axis / size) + 5 for axis, size in zip(axes, spacing, strict=True))
    inner, outer = (ellipsoid(shape, spacing, tuple(scale * axis for axis in axes)) for scale in (1.0, 1.25))
    found = measure(inner, outer, spacing)
    assert 3.0 - max(spacing) / 2 < found.values["hd95_mm"] < 4.0 + max(spacing)
    assert 2.0 < found.values["asd_mm"] < 4.0
    assert (found.values["hd95_mm"], found.values["asd_mm"]) == pytest.approx(
        reference(inner, outer, spacing), rel=1e-5
    )


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("side", ["first", "last"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_the_image_cuts_off_is_surface(spacing: Spacing, side: str, axis: int):
    # halves of concentric balls, cut by the image's border: the discs where they are cut count on both surfaces
    balls = [ellipsoid((21, 21, 21), (1.0, 1.0, 1.0), (radius,) * 3) for radius in (4.0, 8.0)]
    half = [slice(None)] * 3
    half[axis] = slice(10, None) if side == "first" else slice(None, 11)
    inner, outer = (ball[tuple(half)] for ball in balls)
    found = measure(inner, outer, spacing)
    assert (found.values["hd95_mm"], found.values["asd_mm"]) == pytest.approx(
        reference(inner, outer, spacing), rel=1e-5
    )
    # one voxel layer of nothing around changes nothing
    assert found == measure(np.pad(inner, 1), np.pad(outer, 1), spacing)


SHAPES = [(9, 7), (6, 5, 4), (1, 6, 7), (6, 1, 7), (6, 7, 1), (1, 1, 8), (8, 1, 1), (2, 9, 9), (1, 12), (40, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_masks_have_the_distances_of_an_own_transform(shape: tuple[int, ...]):
    rng = np.random.default_rng(list(shape))
    for spacing, shares in itertools.product(SPACINGS, itertools.product((0.0, 0.3, 0.9), repeat=2)):
        masks = [rng.random(shape) < share for share in shares]
        for mask in masks:  # at the least, one voxel anywhere, borders and corners included
            mask.flat[rng.integers(mask.size)] = True
        found = measure(*masks, spacing[: len(shape)])
        expected = reference(*masks, spacing[: len(shape)])
        assert (found.values["hd95_mm"], found.values["asd_mm"]) == pytest.approx(expected, rel=1e-5)


def test_a_single_voxel_is_its_own_surface():
    voxel = np.ones((1, 1, 1), bool)
    assert measure(voxel, voxel, (1.0, 2.0, 3.0)) == class_metrics(1, "ok", 1.0, 1.0, 0.0, 0.0)
    apart = measure(np.array([[[True, False]]]), np.array([[[False, True]]]), (1.0, 2.0, 3.0))
    assert (apart.values["hd95_mm"], apart.values["asd_mm"]) == (3.0, 3.0)


def discs(radius: float = 16.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two discs whose centres are 10 pixels apart, ``(1, 64, 64, 1)``."""
    y, x = np.mgrid[:64, :64]
    masks = (((y - 32) ** 2 + (x - centre) ** 2 <= radius**2)[None, ..., None] for centre in (27, 37))
    pred, label = (torch.from_numpy(mask.astype(np.int64)) for mask in masks)
    return pred, label


def distances(pred: torch.Tensor, label: torch.Tensor) -> list[float]:
    (found,) = compute_case_metrics(pred, label, 2, (1.0, 1.0, 5.0))
    return [found.values["hd95_mm"], found.values["asd_mm"]]


@pytest.mark.parametrize("place", [0, 5, 10])
def test_a_slice_among_ignored_ones_has_the_distances_of_the_slice_alone(place: int):
    # with the faces towards ignored voxels, all of both discs would be surface: 8.012 and 1.794
    pred, label = discs()
    assert distances(pred, label) == pytest.approx([9.947, 6.032], abs=5e-4)
    sparse = torch.full((1, 64, 64, 11), 2)
    sparse[..., place : place + 1] = label
    everywhere = pred.expand(-1, -1, -1, 11)
    assert distances(everywhere, sparse) == pytest.approx([9.947, 6.032], abs=5e-4)


def test_of_a_structure_that_ignored_voxels_surround_all_voxels_are_surface():
    label, pred = torch.full((1, 9, 9, 1), 2), torch.zeros((1, 9, 9, 1), dtype=torch.int64)
    label[0, 2:6, 4], pred[0, 2:4, 4] = 1, 1  # a scribble of four voxels, half of it found
    # the prediction has one face, at its second voxel; from the label's voxels it is 1, 0, 1 and 2 mm away
    assert distances(pred, label) == pytest.approx([1.85, 4 / 5], abs=1e-5)
