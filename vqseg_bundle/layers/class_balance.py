"""Weights of tokens that let every class have its share of the codebook."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from vqseg_bundle.common import process_count

__all__ = ["class_balance"]

# a class of a few tokens would otherwise outweigh all others by them alone
_LEAST_SHARE = 1e-3


@torch.no_grad()
def class_balance(classes: Tensor, grid: Sequence[int], stride: Sequence[int], num_classes: int) -> Tensor:
    r"""Weight of each token, inverse to the share of its class.

    .. math:: w_n \propto \frac{1}{\max(s_{c(n)}, 0.001)}, \qquad \frac1N \sum_n w_n = 1

    :math:`s_c` is the share of class c in the tokens of all processes, :math:`c(n)` the class at the token's centre, or
    at the last voxel where a padded image ends before it. In medical images most tokens are background, which would
    otherwise take up nearly all codes.

    Args:
        classes: labels or pseudo-labels of the images, ``(B, *S)``, int64; tokens of other indices ("ignore") weigh 1.
        grid: size of the map of tokens.
        stride: voxels between two tokens, one number per axis.
        num_classes: number of classes, background included.

    Returns:
        ``(B * prod(grid),)``, float32, in the order of the flattened tokens.
    """
    for axis, (length, step) in enumerate(zip(grid, stride, strict=True), start=1):
        centres = torch.arange(length, device=classes.device) * step + step // 2
        classes = classes.index_select(axis, centres.clamp_max(classes.shape[axis] - 1))
    tokens = classes.flatten()
    counts = torch.bincount(tokens, minlength=num_classes + 1).float()[:num_classes]
    if process_count() > 1:
        dist.all_reduce(counts)
    shares = counts / counts.sum().clamp_min(1)
    weights = shares.clamp_min(_LEAST_SHARE).reciprocal()
    weights = weights / (weights * shares).sum().clamp_min(torch.finfo(weights.dtype).tiny)
    return torch.cat((weights, weights.new_ones(1)))[tokens]
