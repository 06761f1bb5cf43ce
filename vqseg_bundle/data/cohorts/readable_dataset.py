"""A dataset that goes on where a case cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from monai.data import IterableDataset
from monai.transforms import apply_transform
from torch.utils.data import get_worker_info

from ..errors import DataError

__all__ = ["ReadableDataset"]

logger = logging.getLogger(__name__)


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
