"""Predictions averaged over networks and mirrored copies."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

from vqseg_bundle.engines import AveragedInferer


def networks(count: int, dims: int = 2) -> list[nn.Module]:
    torch.manual_seed(0)
    convolution = nn.Conv2d if dims == 2 else nn.Conv3d
    return [convolution(1, 3, 3, padding=1).eval() for _ in range(count)]


@torch.no_grad()
def test_the_mean_of_the_probabilities_of_networks_and_flips():
    image, (first, second) = torch.rand(1, 1, 7, 6), networks(2)
    found = AveragedInferer(SimpleInferer(), [second], mirror_axes=[0, 1])(image, first)
    parts = [
        network(image.flip(axes)).softmax(1).flip(axes)
        for network in (first, second)
        for axes in ([], [2], [3], [2, 3])
    ]
    torch.testing.assert_close(found.softmax(1), torch.stack(parts).mean(0))
    torch.testing.assert_close(found.exp().sum(1), torch.ones(1, 7, 6))


@torch.no_grad()
def test_a_mirrored_volume_gets_the_mirrored_prediction():
    image, (network,) = torch.rand(1, 1, 8, 6, 4), networks(1, 3)
    inferer = AveragedInferer(SlidingWindowInferer((8, 6, 4)), mirror_axes=[2])
    torch.testing.assert_close(inferer(image.flip(4), network), inferer(image, network).flip(4))
    plain = SlidingWindowInferer((8, 6, 4))
    assert not torch.allclose(plain(image.flip(4), network), plain(image, network).flip(4), atol=1e-3)


@torch.no_grad()
def test_alone_it_changes_nothing():
    image, (network,) = torch.rand(1, 1, 7, 6), networks(1)
    assert torch.equal(AveragedInferer(SimpleInferer())(image, network), network(image))


@pytest.mark.parametrize("axes", [[0, 0], [-1]])
def test_axes_that_are_none_are_refused(axes):
    with pytest.raises(ValueError, match=r"mirror_axes must be different axes, counted from 0"):
        AveragedInferer(SimpleInferer(), mirror_axes=axes)
