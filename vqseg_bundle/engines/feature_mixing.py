"""CutMix on a coarse grid of features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["mix_features"]


def mix_features(mix: Callable[[Tensor], Tensor], features: Tensor, image_size: Sequence[int]) -> Tensor:
    """Give each patch the features of the image that the mixed batch shows at the patch's centre.

    MONAI's ``CutMix.apply`` has its box in image pixels, so it cannot be applied to a map of another size. Applied to
    images filled with their own index, it tells which image each pixel comes from.

    Args:
        mix: pastes regions of some images of a batch ``(B, 1, *image_size)`` into others: ``CutMix.apply`` with the
            parameters used for the images.
        features: of the images before mixing, ``(B, C, *G)``.
        image_size: spatial size of the images, with as many axes as G.

    Returns:
        ``(B, C, *G)``.
    """
    batch, grid = len(features), features.shape[2:]
    numbers = torch.arange(batch, dtype=torch.float32, device=features.device)
    spread = numbers.view(-1, *[1] * (len(grid) + 1)).expand(batch, 1, *image_size)
    source = F.interpolate(mix(spread), size=grid, mode="nearest-exact").round().long()  # (B, 1, *G)
    return torch.gather(features, 0, source.expand_as(features))
