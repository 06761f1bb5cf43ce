"""Cases read and prepared once: in memory, and on disk what memory does not hold."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset
from monai.transforms import RandomizableTrait, Transform

from vqseg_bundle.common import is_disk_full

__all__ = ["KeptCases"]

logger = logging.getLogger(__name__)


class KeptCases(CacheDataset):
    """MONAI's CacheDataset, whose other cases are kept on disk after the deterministic transforms.

    MONAI's PersistentDataset is not used for these: it names each file by a digest of the case at every draw, and moves
    it from the system's temporary folder, in which another loader worker sees it half written.

    Args:
        data: the cases.
        transform: a ``Compose``; what comes before the first random transform is done once.
        cache_rate: share of the cases, the first ones, that are kept in memory, in [0, 1].
        folder: where the other cases are kept; None prepares them anew at each draw. Files in it are loaded with
            Python's pickle: it must be the process's own, see :class:`~vqseg_bundle.bundle.FolderLock`.
        num_workers: loader processes. Without any, each case is prepared when it is first drawn; otherwise those in
            memory are prepared at once in as many threads, since the processes share what was there when they began.
        copy_cache: whether random transforms get a copy.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Mapping[str, Any]], Any],
        cache_rate: float = 1.0,
        folder: str | Path | None = None,
        num_workers: int = 0,
        copy_cache: bool = True,
    ) -> None:
        self.folder = Path(folder) if folder is not None else None
        super().__init__(
            data,
            transform,
            cache_rate=cache_rate,
            num_workers=num_workers,
            progress=False,
            copy_cache=copy_cache,
            runtime_cache=num_workers == 0,
        )

    def _transform(self, index: int) -> Any:
        place = int(index) % len(self)
        if self.folder is None or place < self.cache_num:
            return super()._transform(index)
        item = self._kept(self.folder / f"{place}.pt", place)
        first_random = self.transform.get_index_of_first(
            lambda step: isinstance(step, RandomizableTrait) or not isinstance(step, Transform)
        )
        return item if first_random is None else self.transform(item, start=first_random)

    def _kept(self, path: Path, place: int) -> Any:
        if path.is_file():
            return torch.load(path, weights_only=False)
        item = self._load_cache_item(place)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(item, partial)
            partial.replace(path)
        except (OSError, RuntimeError) as error:  # torch wraps what it cannot write
            if not is_disk_full(error):
                raise
            partial.unlink(missing_ok=True)
            self.folder = None
            logger.warning(
                "no space is left to keep scans in %s: those that follow are read anew each time", path.parent
            )
        return item
