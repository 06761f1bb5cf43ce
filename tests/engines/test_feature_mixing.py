"""CutMix's boxes on a coarse grid of features."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.transforms import CutMix

from vqseg_bundle.engines.feature_mixing import mix_features


def box_mixer(weight: float = 0.5, batch: int = 3, size: tuple[int, ...] = (36, 36)) -> CutMix:
    mixer = CutMix(batch_size=batch, alpha=1.0)
    mixer.set_random_state(seed=2)
    images = torch.zeros(batch, 1, *size)
    mixer.randomize(images)
    mixer._params = (torch.full((batch,), weight), torch.tensor([*range(1, batch), 0]), mixer._params[2])
    return mixer


@pytest.mark.parametrize("size", [(36, 36), (36, 36, 9)])
def test_each_patch_gets_the_features_of_the_image_shown_at_its_center(size):
    mixer = box_mixer(size=size)
    grid = tuple(length // 4 if length == 36 else length // 3 for length in size)
    # images of patches of one value each, and that value as feature: mixing then pooling the centers must agree
    features = torch.rand(3, 5, *grid)
    images = F.interpolate(features, size=size, mode="nearest-exact")
    mixed = mixer.apply(images)
    expected = F.interpolate(mixed, size=grid, mode="nearest-exact")
    found = mix_features(mixer.apply, features, size)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(found, features)


def test_a_mix_that_changes_nothing_leaves_the_features():
    mixer = box_mixer(weight=1.0)
    features = torch.rand(3, 5, 9, 9)
    torch.testing.assert_close(mix_features(mixer.apply, features, (36, 36)), features, rtol=0, atol=0)


def test_a_whole_exchange_takes_the_partners_features():
    features = torch.rand(2, 5, 9, 9)
    assert torch.equal(mix_features(lambda images: images.flip(0), features, (128, 128)), features.flip(0))
