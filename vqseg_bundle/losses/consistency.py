"""Losses between the student's logits and pseudo-labels: hard and confident ones, or soft ones by squared error."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vqseg_bundle.losses.pooled_dice import sum_over_processes
from vqseg_bundle.losses.segmentation import SegmentationLoss

__all__ = ["MeanSquaredConsistencyLoss", "PseudoLabelLoss", "UncertaintyMaskedConsistencyLoss"]


class PseudoLabelLoss(nn.Module):
    r"""Segmentation loss against the most probable class, over the voxels whose probability reaches a threshold.

    VQ-Seg's :math:`L_{seg}(\hat y_u, \cdot)`; with a threshold, FixMatch's and UniMatch's.

    Args:
        segmentation_loss: called with logits, labels and the mask of confident voxels; None means cross-entropy.
        confidence_threshold: pseudo-labels below this probability are ignored; 0 keeps all, as in VQ-Seg's paper.
            Voxels without any probability, which were pasted from where nobody has labelled, are always ignored.

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
        labels = labels.where(confidence > 0, logits.shape[1])
        return self.segmentation_loss(logits, labels, confidence >= self.confidence_threshold)


class MeanSquaredConsistencyLoss(nn.Module):
    r"""Mean over voxels and classes of :math:`(p - \hat p)^2`, p being the student's softmax.

    Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017 (https://arxiv.org/abs/1703.01780). Voxels
    without any probability, which were pasted from where nobody has labelled, do not count.

    Shape:
        - logits: ``(B, C, *S)``, the student's.
        - probabilities: ``(B, C, *S)``, the pseudo-labeller's.
        - entropy: not used.
        - output: float32 scalar.
    """

    def forward(self, logits: Tensor, probabilities: Tensor, entropy: Tensor, ramp: float = 1.0) -> Tensor:
        """Compute the loss; ``entropy`` and ``ramp`` are not used."""
        labeled = probabilities.sum(dim=1, keepdim=True) > 0
        squared = F.mse_loss(logits.float().softmax(dim=1), probabilities, reduction="none")
        return (labeled * squared).sum() / (logits.shape[1] * labeled.sum().clamp_min(1))


class UncertaintyMaskedConsistencyLoss(nn.Module):
    r"""Mean squared error over the voxels of which the pseudo-labeller is certain enough.

    UA-MT (Yu et al., MICCAI 2019, https://arxiv.org/abs/1907.07034), with u the predictive entropy and r the ramp:

    .. math:: L = \frac{\sum_v [u_v < H] \, \lVert p_v - \hat p_v \rVert^2}{C \sum_v [u_v < H]}, \qquad
              H = (h_0 + (1 - h_0)\, r) \ln C

    The published code, for two classes, divides by twice the kept voxels and uses ln 2; here both depend on C. The sums
    run over the batches of all processes that train together. The loss is 0 if no voxel is kept. Voxels without any
    probability, which were pasted from where nobody has labelled, are not.

    Args:
        initial_share: :math:`h_0` in [0, 1], the initial threshold as a share of the largest entropy.

    Shape:
        - logits: ``(B, C, *S)``, the student's.
        - probabilities: ``(B, C, *S)``, the pseudo-labeller's.
        - entropy: ``(B, *S)``, the pseudo-labeller's, in nats.
        - output: float32 scalar.

    Raises:
        ValueError: ``initial_share`` outside [0, 1].
    """

    def __init__(self, initial_share: float = 0.75) -> None:
        super().__init__()
        if not 0.0 <= initial_share <= 1.0:
            raise ValueError(f"initial_share must lie in [0, 1], got {initial_share}.")
        self.initial_share = initial_share

    def forward(self, logits: Tensor, probabilities: Tensor, entropy: Tensor, ramp: float = 1.0) -> Tensor:
        """Compute the loss.

        Args:
            logits: see the class.
            probabilities: see the class.
            entropy: see the class.
            ramp: r in [0, 1].

        Raises:
            ValueError: ``entropy`` is empty.
        """
        if entropy.numel() == 0:
            raise ValueError(
                "entropy of the pseudo-labels must be there for the uncertainty mask, got none; use a pseudo_labeler "
                "that estimates it, such as MonteCarloTeacher."
            )
        classes = logits.shape[1]
        threshold = (self.initial_share + (1.0 - self.initial_share) * ramp) * math.log(classes)
        certain = ((entropy < threshold) & (probabilities.sum(dim=1) > 0)).unsqueeze(1)
        squared = (logits.float().softmax(dim=1) - probabilities).square()
        sums = torch.stack(((certain * squared).sum(), certain.sum().to(squared.dtype)))
        error, kept = sum_over_processes(sums)
        return error / (classes * kept.clamp_min(1))
