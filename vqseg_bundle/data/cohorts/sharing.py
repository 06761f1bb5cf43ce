"""Parts of a list of cases: of several processes or workers, evenly spread, those that can be read."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from monai.data import IterableDataset, partition_dataset
from monai.transforms import apply_transform
from torch.utils.data import get_worker_info

from ..errors import DataError

__all__ = ["ReadableDataset", "evenly_spread", "process_share"]

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


def evenly_spread(cases: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """At most ``count`` cases in equal steps from the first, each image once; one of them for a ``count`` below 1."""
    images = list({case["image"]: case for case in cases}.values())
    return images[:: max(1, math.ceil(len(images) / max(1, count)))]


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
