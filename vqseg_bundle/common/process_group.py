"""The processes that train or evaluate together; without a process group, one process of rank 0.

PyTorch's own group is queried each time, since ignite's wrapper outlives the group it was made for. A process that has
not imported PyTorch has no group, and needs no second to import it.
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar

__all__ = ["average_running_statistics", "gather_objects", "process_count", "process_rank", "wait_for_all"]

T = TypeVar("T")


def process_count() -> int:
    """Number of processes, 1 without a process group."""
    return _torch_distributed().get_world_size() if _has_group() else 1


def process_rank() -> int:
    """Rank of this process, 0 without a process group."""
    return _torch_distributed().get_rank() if _has_group() else 0


def wait_for_all() -> None:
    """Wait until every process has reached this call."""
    if _has_group():
        _torch_distributed().barrier()


def gather_objects(own: T) -> list[T]:
    """Every process's object, in the order of their ranks; all processes must call it.

    Args:
        own: this process's contribution, picklable.
    """
    if not _has_group():
        return [own]
    gathered: list[Any] = [None] * process_count()
    _torch_distributed().all_gather_object(gathered, own)
    return gathered


def average_running_statistics(network: Any) -> None:
    """Give each batch norm of a network its running mean and variance averaged over the processes, in place.

    Each process has normalised its own batch. A network without batch norm is left alone.
    """
    dist, count = _torch_distributed(), process_count()
    for name, buffer in network.named_buffers() if count > 1 else ():
        if name.rpartition(".")[2] in ("running_mean", "running_var"):
            dist.all_reduce(buffer)
            buffer /= count


def _has_group() -> bool:
    dist = _torch_distributed()
    return dist is not None and dist.is_available() and dist.is_initialized()


def _torch_distributed() -> Any:
    return sys.modules.get("torch.distributed")
