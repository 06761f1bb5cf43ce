"""Sums over all processes of a distributed training, for losses that are not means over samples."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from vqseg_bundle.common import process_count

__all__ = ["sum_over_processes"]


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
