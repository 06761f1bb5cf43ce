"""Losses of VQ-Seg; they take tensors."""

from vqseg_bundle.losses.alignment import PatchInfoNCELoss
from vqseg_bundle.losses.segmentation import SegmentationLoss
from vqseg_bundle.losses.vqseg_loss import LossTerms, VQSegLoss, VQSegTargets

__all__ = ["LossTerms", "PatchInfoNCELoss", "SegmentationLoss", "VQSegLoss", "VQSegTargets"]
