"""What each of several processes or workers works on: its cases of a list, its samples, what can be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from monai.data import IterableDataset, partition_dataset
from monai.transforms import apply_transform
from torch.utils.data import Sampler, get_worker_info

from ..errors import DataError

__all__ = ["ReadableDataset", "SharedRandomSampler", "process_share"]

T = TypeVar("T")
logger = logging.getLogger(__name__)


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


class SharedRandomSampler(Sampler[int]):
    """Deal one random order to all processes, a sample to each in turn.

    The order goes through the data set again and again, shuffled anew each time, as PyTorch's ``RandomSampler`` does.
    Batch number n of B samples of each of W processes therefore holds, together, the samples of batch number n of one
    process with B x W samples, whatever the size of the data set: none is padded, repeated or left out.

    Args:
        data_source: the data set, the same on every process.
        num_samples: samples that this process draws.
        rank: this process, from 0.
        num_processes: of how many.
        seed: of the order, the same on every process.

    Raises:
        ValueError: no data, a negative count, or ``rank`` is not one of the processes.
    """

    def __init__(
        self, data_source: Sized, num_samples: int, rank: int = 0, num_processes: int = 1, seed: int = 0
    ) -> None:
        if len(data_source) == 0:
            raise ValueError("data_source must hold at least one sample, got none.")
        if num_samples < 0:
            raise ValueError(f"num_samples must not be negative, got {num_samples}.")
        if not 0 <= rank < num_processes:
            raise ValueError(f"rank must lie in [0, num_processes), got {rank} of {num_processes}.")
        self.data_source = data_source
        self.num_samples = num_samples
        self.rank = rank
        self.num_processes = num_processes
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw another order from now on, so that a resumed training does not see the first samples again.

        Args:
            epoch: the epoch that the training goes on after, 0 at its start.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        return islice(self._order(), self.rank, self.num_samples * self.num_processes, self.num_processes)

    def _order(self) -> Iterator[int]:
        numbers = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(numbers[0] >> 1))
        while True:
            yield from torch.randperm(len(self.data_source), generator=generator).tolist()


class ReadableDataset(IterableDataset):
    """Cases with a transform applied, in order; one that fails is named with its reason in the log, and left out.

    What a check of the headers does not see, such as pixels that cannot be decoded, shows here. How many cases there
    will be is not known beforehand, so that there is no length.

    Args:
        data: cases with "image".
        transform: what reads and prepares a case.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Callable[[Mapping[str, Any]], Any]) -> None:
        super().__init__(data, transform)
        self.cases = data
        self.read = transform

    def __iter__(self) -> Iterator[Any]:
        """The cases that can be read; each of several workers takes its share."""
        worker = get_worker_info()
        share = self.cases if worker is None else self.cases[worker.id :: worker.num_workers]
        for case in share:
            try:
                item = apply_transform(self.read, dict(case))
            except Exception as error:  # of a damaged file any, and MONAI's own around it
                logger.error("left out: %s", _reason(error, case["image"]))
                continue
            yield item


def _reason(error: BaseException, image: str) -> str:
    """A message of ours, which names the file, else the first cause."""
    while error.__cause__ is not None and not isinstance(error, DataError):
        error = error.__cause__
    text = " ".join(str(error).split())
    return text if isinstance(error, DataError) else f"{image}: {type(error).__name__}: {text}"
