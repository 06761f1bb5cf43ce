"""The processes that train or evaluate together; without a process group, one process of rank 0.

PyTorch's own group is queried each time, since ignite's wrapper outlives the group it was made for.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed as dist

__all__ = ["gather_objects", "process_count", "process_rank", "wait_for_all"]

T = TypeVar("T")


def process_count() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if _has_group() else 1


def process_rank() -> int:
    """Rank of this process, 0 without a process group."""
    return dist.get_rank() if _has_group() else 0


def wait_for_all() -> None:
    """Wait until every process has reached this call."""
    if _has_group():
        dist.barrier()


def gather_objects(own: T) -> list[T]:
    """Every process's object, in the order of their ranks; all processes must call it.

    Args:
        own: this process's contribution, picklable.
    """
    if not _has_group():
        return [own]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return gathered


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()
