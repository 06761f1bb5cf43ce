"""The number of slices or windows of a volume that go through the network at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

__all__ = ["window_batch_size"]

# Memory of a window in a forward pass without gradient, in float32 maps of the first level's size and width: 8 to 12,
# measured on the bundle's U-Nets in 2D and 3D.
_MAPS_A_WINDOW = 12
# On a CPU larger batches exceed the cache and get slower: 4 to 8 slices of 128 x 128 were fastest.
_CPU_BYTES = 2**27
_CUDA_SHARE = 0.25


def window_batch_size(
    window: Sequence[int], channels: int, device: str | torch.device, memory_gb: float | None = None
) -> int:
    """Number of windows that fit a memory budget.

    Args:
        window: size of a window in voxels.
        channels: width of the first level of a U-Net, or its equivalent in another network.
        device: where the network runs.
        memory_gb: budget in GB (1e9 bytes); None means a quarter of the free memory on a CUDA device, and the fastest
            size on a CPU.

    Returns:
        at least 1.

    Raises:
        ValueError: ``memory_gb`` is not positive.
    """
    if memory_gb is not None and not memory_gb > 0:
        raise ValueError(f"inference_memory_gb must be positive or None, got {memory_gb}.")
    if memory_gb is not None:
        budget = memory_gb * 1e9
    elif torch.device(device).type == "cuda":
        budget = _CUDA_SHARE * torch.cuda.mem_get_info(torch.device(device))[0]
    else:
        budget = _CPU_BYTES
    return max(1, int(budget / (4 * _MAPS_A_WINDOW * channels * math.prod(window))))
