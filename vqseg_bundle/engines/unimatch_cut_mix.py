"""The boxes of UniMatch, each inside its image, in place of MONAI's."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from monai.transforms import CutMix
from torch import Tensor

__all__ = ["UniMatchCutMix"]

_AREA, _ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)


class UniMatchCutMix(CutMix):
    """MONAI's ``CutMix`` with the boxes of UniMatch (Yang et al., CVPR 2023), https://github.com/LiheYoung/UniMatch.

    With probability ``prob`` an image receives a box of another image of the batch, never of itself. The box covers
    2 to 40 % of the area of the first two axes, with an aspect from 0.3 to 1 / 0.3 times the image's, and lies wholly
    inside, at a random place of its own; volumes are cut through the whole depth. MONAI's boxes instead share one
    corner per batch and end at the far border, so that the corner of the highest indices is mixed in every third image
    and that of the lowest hardly ever; in a batch of B, one image in B is its own partner.

    Used like its base: one draw by :meth:`randomize`, then ``apply`` on every tensor of the batch.

    Args:
        batch_size: number of images.
        prob: probability of a box, in [0, 1].

    Raises:
        ValueError: ``prob`` outside [0, 1].
    """

    def __init__(self, batch_size: int, prob: float = 0.5) -> None:
        if not 0.0 <= prob <= 1.0:
            raise ValueError(f"prob of a box must lie in [0, 1], got {prob}.")
        super().__init__(batch_size)
        self.box_prob = prob
        self._boxes: list[tuple[int, tuple[slice, ...]]] = []

    def randomize(self, data: Any = None) -> None:
        """Draw partners and boxes for the next calls of :meth:`apply`.

        Args:
            data: the batch, a tensor ``(B, C, *S)``, of which only the size counts.
        """
        self._boxes = [(self._partner(index), self._box(data.shape[2:])) for index in range(self.batch_size)]

    def apply(self, data: Tensor) -> Tensor:
        """Mix.

        Args:
            data: ``(B, C, *S)``.

        Returns:
            the same shape.

        Raises:
            ValueError: B is not the number of images that were drawn for.
        """
        if len(data) != len(self._boxes):
            raise ValueError(f"expected a batch of {len(self._boxes)}, got {len(data)}.")
        mixed = data.clone()
        for index, (partner, box) in enumerate(self._boxes):
            place = (slice(None), *box)
            mixed[index][place] = data[partner][place]
        return mixed

    def _partner(self, index: int) -> int:
        boxed = self.batch_size > 1 and self.R.random_sample() < self.box_prob
        return (index + self.R.randint(1, self.batch_size)) % self.batch_size if boxed else index

    def _box(self, size: torch.Size) -> tuple[slice, ...]:
        while True:
            area, aspect = self.R.uniform(*_AREA), self.R.uniform(*_ASPECT)
            shares = sqrt(area * aspect), sqrt(area / aspect)
            if max(shares) <= 1.0:
                break
        sides = [max(1, int(share * length)) for share, length in zip(shares, size, strict=False)]
        starts = [self.R.randint(0, length - side + 1) for length, side in zip(size, sides, strict=False)]
        return tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
