"""Bidirectional copy-paste: boxes are exchanged between unlabelled and labelled images."""

from __future__ import annotations

import torch
from monai.transforms import Randomizable
from torch import Tensor

__all__ = ["CopyPaste"]


class CopyPaste(Randomizable):
    """Mixer that pastes a box of a labelled image into an unlabelled one, or the other way round.

    After Bai et al., "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation", CVPR 2023,
    https://arxiv.org/abs/2305.00673. Each unlabelled image meets one labelled image, drawn anew in every step; which of
    the two is the background is drawn as well, so that both directions come up equally often. The box covers ``share``
    of each axis, at a random place of its own for every image. The mixed image's target is the label where the
    labelled image shows, the pseudo-label elsewhere.

    Used like MONAI's ``CutMix``: one draw, then ``apply`` on every tensor of the batch. ``apply`` takes the unlabelled
    images followed by the labelled ones, and returns as many as there are unlabelled ones.

    Args:
        share: side of the box divided by the image's, in (0, 1); the paper's code uses 2/3.

    Raises:
        ValueError: ``share`` outside (0, 1).
    """

    def __init__(self, share: float = 2 / 3) -> None:
        if not 0.0 < share < 1.0:
            raise ValueError(f"share of a copied box must lie in (0, 1), got {share}.")
        self.share = share
        self._partners: list[int] = []
        self._keeps_unlabeled: list[bool] = []
        self._starts: list[list[float]] = []

    def draw(self, unlabeled: int, labeled: int, axes: int) -> None:
        """Draw partners, directions and places for the next calls of :meth:`apply`.

        Args:
            unlabeled: number of unlabelled images.
            labeled: number of labelled images, at least 1.
            axes: spatial axes of the images.
        """
        order = self.R.permutation(labeled)
        self._partners = [int(order[index % labeled]) for index in range(unlabeled)]
        self._keeps_unlabeled = [bool(draw < 0.5) for draw in self.R.random_sample(unlabeled)]
        self._starts = self.R.random_sample((unlabeled, axes)).tolist()

    def apply(self, images: Tensor) -> Tensor:
        """Mix.

        Args:
            images: ``(B_u + B_l, C, *S)``, unlabelled images first.

        Returns:
            ``(B_u, C, *S)``.
        """
        count, size = len(self._partners), images.shape[2:]
        mixed = []
        for index, partner in enumerate(self._partners):
            outside, inside = images[index], images[count + partner]
            if not self._keeps_unlabeled[index]:
                outside, inside = inside, outside
            sides = [max(1, round(self.share * length)) for length in size]
            starts = [
                round(start * (length - side))
                for start, length, side in zip(self._starts[index], size, sides, strict=True)
            ]
            box = (slice(None), *(slice(start, start + side) for start, side in zip(starts, sides, strict=True)))
            image = outside.clone()
            image[box] = inside[box]
            mixed.append(image)
        return torch.stack(mixed)
