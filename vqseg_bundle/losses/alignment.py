r"""Alignment loss of the Post-VQ Feature Adapter: patch-wise InfoNCE against a frozen foundation model.

VQ-Seg (Yang et al., NeurIPS 2025, https://arxiv.org/abs/2601.10124), with ``sim`` the cosine similarity:

.. math::
    L_{align} = -\frac{1}{H'W'} \sum_i \log
        \frac{\exp(sim(f^{pfa}_i, f^{fm}_i) / \tau)}{\sum_j \exp(sim(f^{pfa}_i, f^{fm}_j) / \tau)}

Deviation: the paper is 2D. Here the patches of a volume are contrasted within their own slice, because a neighbouring
slice shows nearly the same anatomy at the same place and would be a false negative.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = ["PatchInfoNCELoss"]

# Floor of the norms, which bounds the gradient of a zero feature (torch's default 1e-12 does not).
_MIN_NORM = 1e-6


class PatchInfoNCELoss(nn.Module):
    """Patch-wise InfoNCE between adapted features and a foundation model's features.

    Every patch of an image (of a slice, for volumes) is classified among that image's own foundation patches; the
    positive is the patch at the same place. The mean runs over patches, slices and images. Computed in float32, with
    autocast off on the features' device.

    Args:
        temperature: softmax temperature, tau. Defaults to 0.07.

    Shape:
        - ``adapted``, ``target``: ``(B, C, h, w)`` or ``(B, C, h, w, d)`` with slices along the last axis.
        - Output: float32 scalar.

    Raises:
        ValueError: ``temperature`` is not positive.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        self.temperature = temperature

    def forward(self, adapted: Tensor, target: Tensor) -> Tensor:
        """Compute the loss; gradients reach ``adapted`` only.

        Args:
            adapted: adapter output.
            target: features of the frozen foundation model, same shape as ``adapted``.

        Returns:
            The loss, a float32 scalar.

        Raises:
            ValueError: the shapes differ, are not 4- or 5-dimensional, or leave fewer than two patches to contrast.
        """
        if adapted.shape != target.shape or adapted.ndim not in (4, 5):
            raise ValueError(
                "adapted and target must have the same shape (B, C, h, w) or (B, C, h, w, d), "
                f"got {tuple(adapted.shape)} and {tuple(target.shape)}."
            )
        if adapted.shape[2] * adapted.shape[3] < 2:
            raise ValueError(f"the grid must have at least 2 patches to contrast, got {tuple(adapted.shape[2:4])}.")
        with torch.autocast(device_type=adapted.device.type, enabled=False):
            queries = _unit_patches(adapted)  # (N, P, C), P = h * w
            keys = _unit_patches(target.detach())
            logits = queries @ keys.transpose(1, 2) / self.temperature  # (N, P, P)
            positives = torch.arange(logits.shape[1], device=logits.device).repeat(logits.shape[0])
            return F.cross_entropy(logits.flatten(0, 1), positives)


def _unit_patches(features: Tensor) -> Tensor:
    """Unit-length patch vectors ``(N, h * w, C)`` in float32; slices of volumes join the batch."""
    if features.ndim == 5:
        features = features.movedim(-1, 1).flatten(0, 1)  # (B, C, h, w, d) -> (B * d, C, h, w)
    return F.normalize(features.float().flatten(2).transpose(1, 2), dim=-1, eps=_MIN_NORM)
