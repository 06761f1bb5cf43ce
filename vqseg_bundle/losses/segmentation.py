"""Segmentation loss on labels or pseudo-labels: cross-entropy as in the paper, with soft Dice as an option."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from monai.networks.utils import one_hot
from torch import Tensor, nn

from vqseg_bundle.common import process_count
from vqseg_bundle.losses.pooled_dice import PooledDiceLoss, sum_over_processes

__all__ = ["SegmentationLoss"]


class SegmentationLoss(nn.Module):
    r"""Cross-entropy over the voxels that a mask keeps, plus a weighted soft Dice loss over the same voxels.

    Cross-entropy is averaged over all labelled voxels, kept or not, as in UniMatch: few confident voxels have little
    weight. Voxels whose index is no class, "ignore" in sparse labels, take part in neither term. Both pool the batch of
    all processes, so that neither a slice without an organ nor one with few labels counts against it.

    Args:
        lambda_dice: weight of the Dice term; 0 gives the paper's cross-entropy.
        lambda_cross_entropy: weight of the cross-entropy; 0 leaves only Dice, as UniMatch's medical code does for
            pseudo-labels.
        include_background: whether Dice averages over the background too.
        squared_dice: square the terms of Dice's denominator, as V-Net and UniMatch's medical code do.

    Shape:
        - logits: ``(B, C, *S)``.
        - target: ``(B, *S)``, int64 class indices; from C on, ignored.
        - mask: ``(B, *S)``, bool, or None for all voxels.
        - output: scalar.

    Raises:
        ValueError: a weight is negative, or both are 0.
    """

    def __init__(
        self,
        lambda_dice: float = 0.0,
        lambda_cross_entropy: float = 1.0,
        include_background: bool = False,
        squared_dice: bool = False,
    ) -> None:
        super().__init__()
        for name, weight in (("lambda_dice", lambda_dice), ("lambda_cross_entropy", lambda_cross_entropy)):
            if weight < 0:
                raise ValueError(f"{name} must not be negative, got {weight}.")
        if lambda_dice == 0 and lambda_cross_entropy == 0:
            raise ValueError("lambda_dice and lambda_cross_entropy must not both be 0.")
        self.lambda_dice = lambda_dice
        self.lambda_cross_entropy = lambda_cross_entropy
        self.dice = PooledDiceLoss(include_background, squared_dice)

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return (
            f"lambda_dice={self.lambda_dice}, lambda_cross_entropy={self.lambda_cross_entropy}, "
            f"include_background={self.dice.include_background}, squared_dice={self.dice.squared}"
        )

    def forward(self, logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the loss in float32."""
        logits = logits.float()
        labeled = target < logits.shape[1]
        keep = labeled if mask is None else labeled & mask
        target = target.where(labeled, 0)
        loss = logits.new_zeros(())
        if self.lambda_cross_entropy > 0:
            # each process's share of the mean over all processes' labelled voxels
            count = sum_over_processes(labeled.sum().to(logits.dtype)).clamp_min(1) / process_count()
            cross_entropy = (F.cross_entropy(logits, target, reduction="none") * keep).sum() / count
            loss = loss + self.lambda_cross_entropy * cross_entropy
        if self.lambda_dice > 0:
            # one-hot before masking: a masked index would become the background's
            classes = one_hot(target.unsqueeze(1), logits.shape[1])
            dice = self.dice(logits, classes, keep.unsqueeze(1).to(logits.dtype))
            loss = loss + self.lambda_dice * dice
        return loss
