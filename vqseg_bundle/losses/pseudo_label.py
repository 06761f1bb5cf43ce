"""Consistency with hard pseudo-labels of sufficient confidence."""

from __future__ import annotations

from torch import Tensor, nn

from vqseg_bundle.losses.segmentation import SegmentationLoss

__all__ = ["PseudoLabelLoss"]


class PseudoLabelLoss(nn.Module):
    r"""Segmentation loss against the most probable class, over the voxels whose probability reaches a threshold.

    VQ-Seg's :math:`L_{seg}(\hat y_u, \cdot)`; with a threshold, FixMatch's and UniMatch's.

    Args:
        segmentation_loss: called with logits, labels and the mask of confident voxels; None means cross-entropy.
        confidence_threshold: pseudo-labels below this probability are ignored; 0 keeps all, as in VQ-Seg's paper.

    Shape:
        - logits: ``(B, C, *S)``, the student's.
        - probabilities: ``(B, C, *S)``, the pseudo-labeller's.
        - entropy: not used.
        - output: float32 scalar.

    Raises:
        ValueError: ``confidence_threshold`` outside [0, 1].
    """

    def __init__(self, segmentation_loss: SegmentationLoss | None = None, confidence_threshold: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= confidence_threshold <= 1.0:
            raise ValueError(f"confidence_threshold must lie in [0, 1], got {confidence_threshold}.")
        self.segmentation_loss = segmentation_loss or SegmentationLoss()
        self.confidence_threshold = confidence_threshold

    def forward(self, logits: Tensor, probabilities: Tensor, entropy: Tensor, ramp: float = 1.0) -> Tensor:
        """Compute the loss; ``entropy`` and ``ramp`` are not used."""
        confidence, labels = probabilities.max(dim=1)
        return self.segmentation_loss(logits, labels, confidence >= self.confidence_threshold)
