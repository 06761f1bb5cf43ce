"""The objective of VQ-Seg: every term by name, and their weighted sum."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vqseg_bundle.losses.alignment import PatchInfoNCELoss
from vqseg_bundle.losses.consistency import PseudoLabelLoss
from vqseg_bundle.losses.segmentation import SegmentationLoss

__all__ = ["LossTerms", "VQSegLoss", "VQSegTargets"]


class StudentOutput(Protocol):
    """The part of the student's output that the loss reads (see ``vqseg_bundle.networks.VQSegOutput``)."""

    labeled_logits: Tensor
    unlabeled_logits: Tensor
    reconstruction: Tensor
    adapted: Tensor
    commitment_loss: Tensor
    entropy_loss: Tensor


class ConsistencyLoss(Protocol):
    """Compares the student's logits of one stream with its pseudo-labels."""

    def __call__(self, logits: Tensor, probabilities: Tensor, entropy: Tensor, ramp: float = 1.0) -> Tensor:
        """Scalar from ``(B, C, *S)``, ``(B, C, *S)``, ``(B, *S)`` or empty, and the ramp in [0, 1]."""


class VQSegTargets(NamedTuple):
    """The targets of the student's output.

    Attributes:
        images: ``(B_l + B_u, C, *S)``, the student's input and the image decoder's target.
        labels: ``(B_l, *S)``, int64.
        pseudo_probabilities: ``(B_u, C, *S)``, float32, the pseudo-labeller's; empty without unlabelled images.
        entropy: ``(B_u, *S)``, float32, its predictive entropy in nats; empty if it gives none.
        stream_weights: weights of the streams that make up the unlabelled images, with equally many images each.
        foundation_features: ``(B_l + B_u, C_f, *G)``; empty without a foundation model.
    """

    images: Tensor
    labels: Tensor
    pseudo_probabilities: Tensor
    entropy: Tensor
    stream_weights: tuple[float, ...]
    foundation_features: Tensor


class LossTerms(NamedTuple):
    """The unweighted terms and their weighted sum, all scalars; a term that does not apply is 0.

    ``unlabeled_segmentation`` is the weighted sum over the streams.
    """

    total: Tensor
    labeled_segmentation: Tensor
    unlabeled_segmentation: Tensor
    labeled_reconstruction: Tensor
    unlabeled_reconstruction: Tensor
    alignment: Tensor
    commitment: Tensor
    code_entropy: Tensor


class VQSegLoss(nn.Module):
    r"""Weighted sum of VQ-Seg's terms.

    .. math::
        L_l = L_{seg}(y_l, D_s(q)) + \lambda_r L_{rec}(x_l, D_i(q)), \qquad
        L_u = \sum_s w_s L_{seg}(\hat y_{u,s}, D_s(q'_s)) + \lambda_r L_{rec}(x_u, D_i(q'))

        L = L_l + \lambda_u L_u + \lambda_a L_{align} + \lambda_c L_{commit} + \lambda_e L_{entropy}

    The paper has one stream s of unlabelled images, no weight of the reconstruction (:math:`\lambda_r = 1`), and does
    not specify the quantiser's own terms.

    Args:
        lambda_u: weight of all unlabelled terms; the trainer ramps it up by ``ramp``.
        lambda_reconstruction: :math:`\lambda_r`.
        lambda_a: weight of the alignment with the foundation model.
        lambda_commitment: :math:`\lambda_c`.
        lambda_entropy: :math:`\lambda_e`, weight of the code-use entropy.
        segmentation_loss: applied to labels; None means cross-entropy.
        consistency_loss: applied to the pseudo-labels of each stream; None means :class:`PseudoLabelLoss` with
            ``segmentation_loss``, over all voxels.
        alignment_loss: None means :class:`PatchInfoNCELoss` with its default temperature.

    Raises:
        ValueError: a weight is negative.
    """

    def __init__(
        self,
        lambda_u: float = 1.0,
        lambda_reconstruction: float = 1.0,
        lambda_a: float = 5.0,
        lambda_commitment: float = 1.0,
        lambda_entropy: float = 0.0,
        segmentation_loss: SegmentationLoss | None = None,
        consistency_loss: ConsistencyLoss | None = None,
        alignment_loss: PatchInfoNCELoss | None = None,
    ) -> None:
        super().__init__()
        weights = {
            "lambda_u": lambda_u,
            "lambda_reconstruction": lambda_reconstruction,
            "lambda_a": lambda_a,
            "lambda_commitment": lambda_commitment,
            "lambda_entropy": lambda_entropy,
        }
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"{name} must not be negative, got {weight}.")
        self.lambda_u = lambda_u
        self.lambda_reconstruction = lambda_reconstruction
        self.lambda_a = lambda_a
        self.lambda_commitment = lambda_commitment
        self.lambda_entropy = lambda_entropy
        self.segmentation_loss = segmentation_loss or SegmentationLoss()
        self.consistency_loss = consistency_loss or PseudoLabelLoss(self.segmentation_loss)
        self.alignment_loss = alignment_loss or PatchInfoNCELoss()

    def forward(self, output: StudentOutput, targets: VQSegTargets, ramp: float = 1.0) -> LossTerms:
        """All terms.

        Args:
            output: the student's.
            targets: its targets.
            ramp: factor in [0, 1] of ``lambda_u``, also passed to ``consistency_loss``.
        """
        zero = output.labeled_logits.new_zeros((), dtype=torch.float32)
        labeled = len(targets.labels)
        has_unlabeled = len(targets.pseudo_probabilities) > 0
        labeled_seg = self.segmentation_loss(output.labeled_logits, targets.labels) if labeled > 0 else zero
        unlabeled_seg = self._unlabeled_segmentation(output, targets, ramp) if has_unlabeled else zero
        labeled_rec = unlabeled_rec = zero
        if output.reconstruction.numel() > 0:
            if labeled > 0:
                labeled_rec = F.l1_loss(output.reconstruction[:labeled].float(), targets.images[:labeled].float())
            if has_unlabeled:
                unlabeled_rec = F.l1_loss(output.reconstruction[labeled:].float(), targets.images[labeled:].float())
        has_alignment = output.adapted.numel() > 0
        alignment = self.alignment_loss(output.adapted, targets.foundation_features) if has_alignment else zero
        total = (
            labeled_seg
            + self.lambda_reconstruction * labeled_rec
            + ramp * self.lambda_u * (unlabeled_seg + self.lambda_reconstruction * unlabeled_rec)
            + self.lambda_a * alignment
            + self.lambda_commitment * output.commitment_loss
            + self.lambda_entropy * output.entropy_loss
        )
        return LossTerms(
            total,
            labeled_seg,
            unlabeled_seg,
            labeled_rec,
            unlabeled_rec,
            alignment,
            output.commitment_loss,
            output.entropy_loss,
        )

    def _unlabeled_segmentation(self, output: StudentOutput, targets: VQSegTargets, ramp: float) -> Tensor:
        weights = targets.stream_weights
        size = len(targets.pseudo_probabilities) // len(weights)
        entropies = targets.entropy.split(size) if targets.entropy.numel() > 0 else [targets.entropy] * len(weights)
        logits, probabilities = output.unlabeled_logits.split(size), targets.pseudo_probabilities.split(size)
        # stream by stream, so that Dice pools the images of one stream
        losses = [self.consistency_loss(*part, ramp) for part in zip(logits, probabilities, entropies, strict=True)]
        return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()
