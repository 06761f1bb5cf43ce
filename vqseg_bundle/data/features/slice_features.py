"""Features of whole slices by a foundation model, computed once and kept on disk, one file per case."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from vqseg_bundle.common import replacing

from ..formats.volume_io import source_files
from .slice_grid import SliceGrid, SliceGridRule

__all__ = [
    "FoundationFeatureStore",
    "compute_slice_features",
    "content_digest",
    "load_features",
    "missing_images",
    "open_feature_store",
    "save_features",
    "slice_features",
]

_BLOCK = 2**20
_FORMAT = 1  # of the files; increase it when content or layout changes
logger = logging.getLogger(__name__)
_GB = 1e9


@dataclass(frozen=True)
class FoundationFeatureStore:
    """Feature files of some images, by path; it stores only paths, so it costs a worker process nothing.

    A file has float16 ``(D, channels, h, w)``: the ``D`` slices of the preprocessed image, each on the grid that
    ``rule`` chooses for its size.
    """

    folder: Path
    files: Mapping[str, str]
    rule: SliceGridRule

    def path(self, image: str) -> Path:
        """The file of an image, which may not exist yet.

        Raises:
            ValueError: the image is not in the store.
        """
        name = self.files.get(_key(image))
        if name is None:
            raise ValueError(
                f"{image}: its foundation-model features were not asked for before the training. List the case under "
                '"training" or "unlabeled" of the datalist, or use foundation_features \'exact\'.'
            )
        return self.folder / name


def open_feature_store(
    folder: str | Path, images: Iterable[str], rule: SliceGridRule, made_by: Mapping[str, Any]
) -> FoundationFeatureStore:
    """Name each image's file by a digest of the image's content and everything else that its features depend on.

    Runs that share a folder thus use each other's files exactly if they would compute the same. ``made_by`` is model,
    weights and preprocessing, as JSON.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: ``made_by`` has no JSON form.
    """
    try:
        recipe = json.dumps({"format": _FORMAT, "rule": vars(rule), "made_by": dict(made_by)}, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"made_by must hold what JSON can, got {made_by}: {error}.") from error
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = {}
    for image in dict.fromkeys(map(_key, images)):
        digest = hashlib.sha256(f"{recipe} {content_digest(image)}".encode()).hexdigest()
        files[image] = f"{digest[:32]}.npy"
    return FoundationFeatureStore(Path(folder), files, rule)


def content_digest(path: str | Path) -> str:
    """SHA-256 of a file, or of all files of a DICOM series."""
    digest = hashlib.sha256()
    for source in source_files(str(path)):
        with Path(source).open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def save_features(path: Path, features: np.ndarray) -> None:
    """Write ``(D, channels, h, w)`` as float16 atomically; ValueError if a feature is not finite in float16."""
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(features, dtype=np.float16)
    if not np.isfinite(stored).all():
        raise ValueError(
            f"foundation_features 'cached': features up to {float(np.abs(features).max()):g} do not fit float16, which "
            "they are stored in; use foundation_features 'exact'."
        )
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, stored)


def load_features(path: str | Path) -> np.ndarray:
    """Map a file into memory, in the page cache that processes share; ValueError if it is missing or damaged."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path}: these foundation-model features are missing or damaged ({error}). Delete the file and start "
            "again (resume goes on from the last checkpoint): it will be computed anew."
        ) from error


def _key(image: str) -> str:
    # the form in which LoadImaged keeps the name of the file
    return str(Path(image).expanduser())


def missing_images(store: FoundationFeatureStore) -> list[str]:
    """Images of a store without a file yet."""
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

    Every process reads the images twice: for their sizes, so that a store that would grow too large is refused before
    any work, and for the features of its share of the images. Existing files are kept.

    Args:
        store: names the files.
        transform: the deterministic transforms, from ``{"image": path}`` to "image" ``(C, H, W, D)``.
        build_model: makes the model for a grid with this number of patches per side, on its device: from
            ``(B, C, H, W)`` of any square size to ``(B, channels, side, side)``.
        channels: channels of the features.
        limit_gb: maximum size of all files of the store, in GB of 10^9 bytes.
        rank: rank of this process.
        world: number of processes that share the work.
        num_workers: processes that read images ahead.
        batch_size: slices in one call of the model.

    Raises:
        ValueError: the files would take more than ``limit_gb``, slices are too large for the model, or features do not
            fit float16.
    """
    grids = _plan(store, transform, channels, limit_gb, num_workers, rank)
    # a share of all files, not of the missing ones: another process may already have begun to write
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

    Each slice is padded after its last row and column with its own minimum, so that padding does not change its scaling
    to its own range in a ``FoundationModel``.

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
    """The grids of the images without a file; refuses a store above the limit."""
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
    # PyTorch's loader with its own generator: MONAI's would reseed the training's random draws
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
