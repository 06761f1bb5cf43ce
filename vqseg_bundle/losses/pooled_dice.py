"""Dice pooled over a batch, and sums over the processes that share it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vqseg_bundle.common import process_count

__all__ = ["PooledDiceLoss", "sum_over_processes"]


def sum_over_processes(part: Tensor) -> Tensor:
    r"""Sum of every process's ``part``, with the gradient that a loss of the whole batch needs.

    DistributedDataParallel averages the gradients of W processes. A loss :math:`L(\sum_r s_r)` that each of them
    computes from the same sum therefore needs :math:`W\, \partial L / \partial s_r` from each, and no communication in
    the backward pass. Every process must call it equally often, in the same order. With a single process, returns
    ``part``.

    Args:
        part: this process's share, of the same shape on every process.

    Returns:
        like ``part``.
    """
    if process_count() == 1:
        return part
    total = part.detach().clone()
    dist.all_reduce(total)
    # the difference is exactly zero: the value is the sum, the gradient that of this process's share
    return total + process_count() * (part - part.detach())


# MONAI's value; keeps the loss of a class that is neither present nor predicted at 0.
_SMOOTH = 1e-5


class PooledDiceLoss(nn.Module):
    r"""Mean over classes of one minus the soft Dice of all kept voxels.

    .. math:: L = \frac1C \sum_c \left(1 - \frac{2 \sum_v p_{vc}\, t_{vc} + s}
              {\sum_v p_{vc}^o + \sum_v t_{vc}^o + s}\right), \qquad s = 10^{-5}

    with p the softmax and o = 2 if ``squared``, else 1. The sums run over the batches of all processes that train
    together, so the loss does not depend on how the images are divided among them. In one process it equals
    ``monai.losses.MaskedDiceLoss`` with ``softmax`` and ``batch``.

    Args:
        include_background: whether class 0 is one of the classes.
        squared: square the terms of the denominator, as V-Net does.

    Shape:
        - logits: ``(B, C, *S)``.
        - target: ``(B, C, *S)``, one-hot.
        - mask: ``(B, 1, *S)``, 1 where a voxel counts, else 0.
        - output: scalar.
    """

    def __init__(self, include_background: bool = True, squared: bool = False) -> None:
        super().__init__()
        self.include_background = include_background
        self.squared = squared

    def forward(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Compute the loss."""
        first = 0 if self.include_background else 1
        pred = logits.softmax(dim=1)[:, first:] * mask
        true = target[:, first:] * mask
        axes = [axis for axis in range(pred.ndim) if axis != 1]
        sizes = (pred.square() + true.square()) if self.squared else (pred + true)
        sums = torch.stack(((pred * true).sum(dim=axes), sizes.sum(dim=axes)))  # (2, C)
        overlap, size = sum_over_processes(sums)
        return (1.0 - (2.0 * overlap + _SMOOTH) / (size + _SMOOTH)).mean()
