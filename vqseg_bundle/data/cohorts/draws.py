"""Training samples whose order and augmentation follow from a seed and the number of the draw.

No random state has to be saved: an interrupted training goes on with the draws that would have followed, and any number
of loader workers or processes gives the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from torch.utils.data import Dataset, Sampler

from vqseg_bundle.common import derive_seed

__all__ = ["Draw", "SeededDataset", "SharedRandomSampler"]


class Draw(int):
    """An index into a data set that knows the number of its draw, counted over the whole training.

    Attributes:
        number: from 0, the same for any number of processes.
    """

    number: int

    def __new__(cls, index: int, number: int = 0) -> Draw:
        """An index with its number."""
        draw = super().__new__(cls, index)
        draw.number = number
        return draw


class SharedRandomSampler(Sampler[int]):
    """Deal one random order out to all processes, one sample to each in turn.

    The order goes through the data set repeatedly, reshuffled each time, like PyTorch's ``RandomSampler``. The n-th
    batches of W processes with B samples each thus have the same samples as the n-th batch of one process with B x W
    samples, for any size of the data set: no sample is padded, repeated or left out.

    Args:
        data_source: the data set, the same on every process.
        num_samples: samples that this process draws in the whole training.
        rank: rank of this process.
        num_processes: number of processes.
        seed: seed of the order, one or several numbers, the same on every process.

    Raises:
        ValueError: there are no data, a count is negative, or ``rank`` is not one of the processes.
    """

    def __init__(
        self,
        data_source: Sized,
        num_samples: int,
        rank: int = 0,
        num_processes: int = 1,
        seed: int | Sequence[int] = 0,
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
        self.skipped = 0

    def skip(self, count: int) -> None:
        """Begin after the samples that this process drew before it was interrupted.

        Args:
            count: their number.
        """
        self.skipped = count

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[Draw]:
        world = self.num_processes
        return islice(self._order(), self.skipped * world + self.rank, self.num_samples * world, world)

    def _order(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed))
        number = 0
        while True:
            for index in torch.randperm(len(self.data_source), generator=generator).tolist():
                yield Draw(index, number)
                number += 1


class SeededDataset(Dataset):
    """A data set whose random transforms are seeded anew for each :class:`Draw`.

    Args:
        dataset: a data set of MONAI's, indexed by the draw; what is random in its ``transform`` is seeded.
        seed: one or several numbers.
    """

    def __init__(self, dataset: Any, seed: int | Sequence[int] = 0) -> None:
        self.dataset = dataset
        self.seed = seed
        self._random: list[Randomizable] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        if self._random is None:
            transform = getattr(self.dataset, "transform", None)
            if isinstance(transform, Randomizable):
                # until then, MONAI's transforms all share one state
                transform.set_random_state(seed=0)
            self._random = list({id(item): item for item in _randomizable(transform)}.values())
        numbers = np.random.SeedSequence(derive_seed(self.seed, draw.number)).generate_state(len(self._random))
        for item, number in zip(self._random, numbers, strict=True):
            # set_random_state would make a new state, at a hundred times the cost
            item.R.seed(number)
        return self.dataset[draw]


def _randomizable(item: Any) -> Iterator[Randomizable]:
    """Everything random in a transform, in a fixed order; a transform that is used twice comes twice."""
    if isinstance(item, Randomizable):
        yield item
        for value in vars(item).values():
            yield from _randomizable(value)
    elif isinstance(item, list | tuple):
        for value in item:
            yield from _randomizable(value)
    elif isinstance(item, Mapping):
        yield from _randomizable(list(item.values()))
