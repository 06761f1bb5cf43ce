"""Losses of VQ-Seg and of the methods it is compared with, on tensors."""

from vqseg_bundle.losses.alignment import PatchInfoNCELoss
from vqseg_bundle.losses.consistency import (
    MeanSquaredConsistencyLoss,
    PseudoLabelLoss,
    UncertaintyMaskedConsistencyLoss,
)
from vqseg_bundle.losses.pooled_dice import PooledDiceLoss
from vqseg_bundle.losses.segmentation import SegmentationLoss
from vqseg_bundle.losses.vqseg_loss import LossTerms, VQSegLoss, VQSegTargets

__all__ = [
    "LossTerms",
    "MeanSquaredConsistencyLoss",
    "PatchInfoNCELoss",
    "PooledDiceLoss",
    "PseudoLabelLoss",
    "SegmentationLoss",
    "UncertaintyMaskedConsistencyLoss",
    "VQSegLoss",
    "VQSegTargets",
]
