"""Shares of several processes or workers: cases of a list, samples, readable cases."""

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
    """The cases of one process; each case belongs to exactly one process.

    With fewer cases than processes, each process gets all: an engine cannot run without cases, and a mean over all
    processes is the same if each case counts equally often. ValueError: ``rank`` is not one of the processes.
    """
    if not 0 <= rank < num_processes:
        raise ValueError(f"rank must lie in [0, num_processes), got {rank} of {num_processes}.")
    if len(cases) < num_processes:
        return list(cases)
    return partition_dataset(list(cases), num_partitions=num_processes)[rank]


class SharedRandomSampler(Sampler[int]):
    """Deal one random order out to all processes, one sample to each in turn.

    The order goes through the data set repeatedly, reshuffled each time, like PyTorch's ``RandomSampler``. The n-th
    batches of W processes with B samples each thus have the same samples as the n-th batch of one process with B x W
    samples, for any size of the data set: no sample is padded, repeated or left out.

    Args:
        data_source: the data set, the same on every process.
        num_samples: samples that this process draws.
        rank: rank of this process.
        num_processes: number of processes.
        seed: seed of the order, the same on every process.

    Raises:
        ValueError: there are no data, a count is negative, or ``rank`` is not one of the processes.
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
        """Continue with another order, so that a resumed training does not see the first samples again.

        Args:
            epoch: the epoch after which training continues, 0 at its start.
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
    """Transformed cases, in order; a case that fails is left out and logged with the reason.

    This finds faults that a check of headers does not, such as pixels that cannot be decoded. The number of cases is
    not known beforehand, so there is no length.

    Args:
        data: cases with "image".
        transform: reads and prepares a case.
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
            except Exception as error:  # a damaged file can raise any, wrapped in MONAI's own
                logger.error("left out: %s", _reason(error, case["image"]))
                continue
            yield item


def _reason(error: BaseException, image: str) -> str:
    """Our own message, which names the file, otherwise the first cause."""
    while error.__cause__ is not None and not isinstance(error, DataError):
        error = error.__cause__
    text = " ".join(str(error).split())
    return text if isinstance(error, DataError) else f"{image}: {type(error).__name__}: {text}"
