"""Segmentation loss on labels or pseudo-labels: cross-entropy as in the paper, with soft Dice as an option."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from monai.losses import MaskedDiceLoss
from torch import Tensor, nn

__all__ = ["SegmentationLoss"]


class SegmentationLoss(nn.Module):
    r"""Cross-entropy over the voxels that a mask keeps, plus a weighted soft Dice loss over the same voxels.

    Cross-entropy is averaged over all voxels, kept or not, as UniMatch does: few confident voxels weigh little.
    Dice leaves the background out and pools the batch, so that a slice without an organ does not count against it.

    Args:
        lambda_dice: weight of the Dice term; 0 is the paper's cross-entropy alone.

    Shape:
        - logits: ``(B, C, *S)``.
        - target: ``(B, *S)``, int64 class indices.
        - mask: ``(B, *S)``, bool, or None for all voxels.
        - output: scalar.

    Raises:
        ValueError: ``lambda_dice`` is negative.
    """

    def __init__(self, lambda_dice: float = 0.0) -> None:
        super().__init__()
        if lambda_dice < 0:
            raise ValueError(f"lambda_dice must not be negative, got {lambda_dice}.")
        self.lambda_dice = lambda_dice
        self.dice = MaskedDiceLoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def forward(self, logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the loss in float32."""
        logits = logits.float()
        keep = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
        loss = (F.cross_entropy(logits, target, reduction="none") * keep).mean()
        if self.lambda_dice > 0:
            dice = self.dice(logits, target.unsqueeze(1), keep.unsqueeze(1).to(logits.dtype))
            loss = loss + self.lambda_dice * dice
        return loss
