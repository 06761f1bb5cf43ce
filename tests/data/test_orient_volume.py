"""Bringing volumes to one orientation and back, however they are turned."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from vqseg_bundle.data import OrientVolumed, VolumeHeader, find_orientation
from vqseg_bundle.data.geometry.orientation import axis_directions

EIGHTH = math.pi / 4
#: angles about feet-head, back-front and left-right; at 45 degrees several axes are equally near
TURNS = {
    "none": (0.0, 0.0, 0.0),
    "tilted": (0.2, 0.3, -0.25),
    "z": (EIGHTH, 0.0, 0.0),
    "x": (0.0, 0.0, EIGHTH),
    "zy": (EIGHTH, EIGHTH, 0.0),
    "zyx": (EIGHTH, EIGHTH, EIGHTH),
    "diagonal": (EIGHTH, math.atan(math.sqrt(0.5)), 0.0),
}


def affine(turn: tuple[float, float, float]) -> np.ndarray:
    """With a header's accuracy."""
    matrix = np.eye(4)
    matrix[:3, :3] = nib.eulerangles.euler2mat(*turn) @ np.diag([0.7, 0.7, 3.0])
    matrix[:3, 3] = (10.1, -20.2, 30.3)
    return matrix.astype(np.float32).astype(np.float64)


def storages(voxels: np.ndarray, matrix: np.ndarray) -> Iterator[MetaTensor]:
    """The same volume with its axes in all orders and directions."""
    for order, senses in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        change = np.stack([order, senses], axis=1).astype(float)
        array = nib.orientations.apply_orientation(voxels, change).copy()
        moved = matrix @ nib.orientations.inv_ornt_aff(change, voxels.shape)
        yield MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(moved))


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 1)])
@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_all_storages_come_to_one_volume_and_back_exactly(turn: tuple[float, float, float], shape: tuple[int, ...]):
    transform = OrientVolumed("image", "RAS")
    first = None
    for stored in storages(np.arange(np.prod(shape)).reshape(shape), affine(turn)):
        data = transform({"image": stored})
        image = data["image"]
        first = image if first is None else first
        assert torch.equal(image.as_tensor(), first.as_tensor())
        torch.testing.assert_close(image.affine, first.affine, rtol=0, atol=1e-6)
        assert torch.linalg.det(image.affine) > 0, "mirrored"
        data["pred"] = MetaTensor(image.as_tensor() * 2)
        found = Invertd("pred", Compose([transform]), orig_keys="image", nearest_interp=False)(data)["pred"]
        assert torch.equal(found.as_tensor(), stored.as_tensor() * 2)
        torch.testing.assert_close(found.affine, stored.affine, rtol=0, atol=1e-9)


def test_no_turned_volume_is_mirrored_and_no_way_to_store_it_lies_nearer():
    for turn in np.random.default_rng(0).uniform(-math.pi, math.pi, (200, 3)):
        matrix = affine(tuple(turn))
        found = axis_directions(matrix)
        chosen = np.zeros((3, 3))
        chosen[found[:, 0].astype(int), range(3)] = found[:, 1]
        assert np.linalg.det(chosen) == pytest.approx(1.0)
        # the nearest of the 24 unmirrored ways is nowhere more than 62.8 degrees away
        cosines = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
        assert np.trace(chosen.T @ cosines) >= 1 + 2 * math.cos(math.radians(62.8)) - 1e-3


def test_volumes_turned_by_less_are_as_nibabel_has_them():
    for turn in np.random.default_rng(0).uniform(-0.3, 0.3, (50, 3)):
        for stored in itertools.islice(storages(np.zeros((2, 3, 4)), affine(tuple(turn))), 0, 48, 5):
            header = VolumeHeader((2, 3, 4), stored.affine.numpy())
            assert find_orientation(header) == "".join(nib.aff2axcodes(header.affine))


def test_a_volume_that_lies_so_already_stays_and_keys_may_be_missing():
    volume = MetaTensor(torch.rand(1, 2, 3, 4), affine=torch.eye(4))
    assert torch.equal(OrientVolumed("image", "RAS")({"image": volume})["image"], volume)
    assert OrientVolumed("label", "RAS", allow_missing_keys=True)({"image": volume}) == {"image": volume}
    with pytest.raises(ValueError, match="orientation must name the directions of three axes"):
        OrientVolumed("image", "RAX")
