"""Features of whole slices by a foundation model, computed once and kept in files."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .foundation_store import FoundationFeatureStore, save_features
from .slice_grid import SliceGrid

__all__ = ["compute_slice_features", "missing_images", "slice_features"]

logger = logging.getLogger(__name__)

_GB = 1e9


def missing_images(store: FoundationFeatureStore) -> list[str]:
    """Images of a store whose file is not there."""
    return [image for image in store.files if not store.path(image).is_file()]


def compute_slice_features(
    store: FoundationFeatureStore,
    transform: Callable[[dict[str, str]], Mapping[str, Any]],
    build_model: Callable[[int], nn.Module],
    channels: int,
    limit_gb: float,
    rank: int = 0,
    world: int = 1,
    num_workers: int = 0,
    batch_size: int = 8,
) -> None:
    """Compute the files that a store lacks.

    Every process passes over the images twice: for their sizes, so that a store that would grow too large is refused
    before any work, and for the features of its share of the images. Files already there are left as they are.

    Args:
        store: names the files.
        transform: the deterministic transforms; takes ``{"image": path}``, gives "image" ``(C, H, W, D)``.
        build_model: makes the model for a grid of that many patches a side, on its device: ``(B, C, H, W)`` of any
            square size to ``(B, channels, side, side)``.
        channels: channels of the features.
        limit_gb: most that all files of the store may take, in GB of 10^9 bytes.
        rank: index of this process.
        world: number of processes that share the work.
        num_workers: processes that read images ahead.
        batch_size: slices in one call of the model.

    Raises:
        ValueError: the files would take more than ``limit_gb``, slices are too large for the model, or features do not
            fit float16.
    """
    grids = _plan(store, transform, channels, limit_gb, num_workers, rank)
    # a share of all files, not of the absent ones: another process may have begun to write while this one looked
    own = [image for image in list(store.files)[rank::world] if image in grids]
    by_side: dict[int, list[str]] = defaultdict(list)
    for image in own:
        by_side[grids[image].side].append(image)
    with tqdm(total=len(own), desc="foundation features", unit="case", disable=None if rank == 0 else True) as bar:
        for side, images in sorted(by_side.items()):
            model = build_model(side)
            for image, volume in _volumes(images, transform, num_workers):
                save_features(store.path(image), slice_features(volume, grids[image], model, batch_size))
                bar.update()


@torch.inference_mode()
def slice_features(volume: Tensor, grid: SliceGrid, model: nn.Module, batch_size: int = 8) -> np.ndarray:
    """Features of all slices of a volume, cut to the patches that a slice covers.

    Each slice is padded behind its last row and column by its own minimum, so that scaling it to its own range, as a
    ``FoundationModel`` does, is not changed by the padding.

    Args:
        volume: ``(C, H, W, D)``.
        grid: the grid of its slices.
        model: ``(B, C, *padded)`` to ``(B, channels, side, side)``, on the device where it has its parameters or
            buffers.
        batch_size: slices in one call.

    Returns:
        Float32 ``(D, channels, *tokens)``.
    """
    tensors = [*model.parameters(), *model.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    slices = volume.as_subclass(torch.Tensor).movedim(-1, 0).float()  # (D, C, H, W)
    low = slices.amin((2, 3), keepdim=True)
    behind = (0, grid.padded[1] - slices.shape[3], 0, grid.padded[0] - slices.shape[2])
    padded = F.pad(slices - low, behind) + low
    maps = [model(batch.to(device)) for batch in padded.split(batch_size)]
    rows, columns = grid.tokens
    return torch.cat([each[..., :rows, :columns].float().cpu() for each in maps]).numpy()


def _plan(
    store: FoundationFeatureStore,
    transform: Callable[[dict[str, str]], Mapping[str, Any]],
    channels: int,
    limit_gb: float,
    num_workers: int,
    rank: int,
) -> dict[str, SliceGrid]:
    """The grids of the images that have no file yet; refuses a store above the limit."""
    grids = {}
    need = sum(store.path(image).stat().st_size for image in store.files if store.path(image).is_file())
    for image, volume in _volumes(missing_images(store), transform, num_workers, "sizes of images", rank):
        grids[image] = grid = store.rule.choose(volume.shape[1:3])
        need += volume.shape[3] * grid.tokens[0] * grid.tokens[1] * channels * np.dtype(np.float16).itemsize
    if need > limit_gb * _GB:
        raise ValueError(
            f"foundation_feature_gb is {limit_gb:g}, but the features of {len(store.files)} cases take "
            f"{need / _GB:.3g} GB (10^9 bytes) in {store.folder}. Raise foundation_feature_gb, take a smaller "
            "foundation_image_size, or use foundation_features 'exact', which stores nothing."
        )
    if rank == 0:
        text = "foundation-model features: %d of %d cases to compute, %.3g GB in all, in %s"
        logger.info(text, len(grids), len(store.files), need / _GB, store.folder)
    return grids


def _volumes(
    images: Sequence[str],
    transform: Callable[[dict[str, str]], Mapping[str, Any]],
    num_workers: int,
    title: str = "",
    rank: int = 0,
) -> Iterator[tuple[str, Tensor]]:
    # PyTorch's loader with a generator of its own: MONAI's would set the seed of the training's random draws anew
    items = _Volumes(images, transform)
    loader = DataLoader(items, batch_size=None, num_workers=num_workers, generator=torch.Generator())
    silent = None if title and rank == 0 else True
    yield from zip(images, tqdm(loader, title, len(images), unit="case", disable=silent), strict=True)


class _Volumes(torch.utils.data.Dataset[Tensor]):
    def __init__(self, images: Sequence[str], transform: Callable[[dict[str, str]], Mapping[str, Any]]) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform({"image": self.images[index]})["image"].as_subclass(torch.Tensor)
