"""Weights and images for tests of foundation models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from vqseg_bundle.networks import FoundationModel
from vqseg_bundle.networks.foundation import FOUNDATION_SPECS


class PatchMeans(FoundationModel):
    """The mean of each patch of 14 x 14 pixels, in three channels."""

    def __init__(self, image_size: int) -> None:
        grid = (image_size // 14, image_size // 14)
        nn.Linear(2, 2)  # draws random numbers, as building a real model does
        kwargs = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        super().__init__(nn.AvgPool2d(14), channels=3, image_size=image_size, grid=grid, **kwargs)
        self.backbone.register_parameter("unused", nn.Parameter(torch.zeros(1), requires_grad=False))

    def extract_features(self, images):
        return self.backbone(images)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill all parameters such that each of them matters; fresh models have many zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.squeeze().ndim > 1:
            nn.init.normal_(parameter, std=0.05, generator=generator)
        else:
            nn.init.uniform_(parameter, 0.1, 1.0, generator=generator)
    return module.eval()


@contextmanager
def saved(state: object, path: Path) -> Iterator[str]:
    """A checkpoint file that is there for the block alone: such files are large."""
    torch.save(state, path)
    try:
        yield str(path)
    finally:
        path.unlink()


def image(size: int, seed: int = 0) -> Tensor:
    """An image (1, 3, size, size) that spans [0, 1], so that scaling and resizing leave it as it is."""
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return (pixels - pixels.min()) / (pixels.max() - pixels.min())


def normalized(images: Tensor, name: str) -> Tensor:
    """What the named model's own users give it."""
    spec = FOUNDATION_SPECS[name]
    return (images - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)


def as_tokens(features: Tensor) -> Tensor:
    """(B, channels, h, w) as (B, h * w, channels)."""
    return features.flatten(2).transpose(1, 2)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest expected value."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()
