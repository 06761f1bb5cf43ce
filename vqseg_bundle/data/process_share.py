"""Divides a list of cases over the processes that validate or evaluate it together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from monai.data import partition_dataset

__all__ = ["process_share"]

T = TypeVar("T")


def process_share(cases: Sequence[T], rank: int, num_processes: int) -> list[T]:
    """The cases that one process works on: every one belongs to exactly one process.

    Of fewer cases than processes each process gets all: an engine cannot run on none, and a mean over all processes is
    the same when each case counts equally often.

    Args:
        cases: the whole list, the same on every process.
        rank: this process, from 0.
        num_processes: of how many.

    Returns:
        its share, which differs by at most one case from another's.

    Raises:
        ValueError: ``rank`` is not one of the processes.
    """
    if not 0 <= rank < num_processes:
        raise ValueError(f"rank must lie in [0, num_processes), got {rank} of {num_processes}.")
    if len(cases) < num_processes:
        return list(cases)
    return partition_dataset(list(cases), num_partitions=num_processes)[rank]
