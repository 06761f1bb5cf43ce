"""Retrieval and alignment loss over all slices of some volumes, with controls."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from scripts.alignment.views import SlicePatches
from vqseg_bundle.losses import PatchInfoNCELoss

__all__ = ["CHANCE", "POSITION", "SHUFFLED", "Measured", "Row", "measure_slices", "retrieved", "shuffled"]

#: names of the rows without their own adapter
SHUFFLED, POSITION, CHANCE = "trained adapter, patches shuffled", "position only, from other volumes", "chance"


@dataclass(frozen=True)
class Row:
    """Results of one contender.

    Attributes:
        name: the contender.
        in_slice: share of patches whose own foundation feature is the nearest in the slice.
        in_batch: the same among all patches of a batch of slices.
        loss: alignment loss, nats.
    """

    name: str
    in_slice: float
    in_batch: float
    loss: float


@dataclass(frozen=True)
class Measured:
    """Rows, and the data behind them.

    Attributes:
        rows: one per contender.
        slices: number of slices.
        grid: patches along a slice's axes.
        batch_size: slices compared with each other.
    """

    rows: tuple[Row, ...]
    slices: int
    grid: tuple[int, int]
    batch_size: int


def measure_slices(
    volumes: Iterable[SlicePatches], trained: str, alignment_loss: PatchInfoNCELoss, batch_size: int, seed: int
) -> Measured:
    """Measure each adapter, the trained one with shuffled patches, what a patch's position tells, and chance.

    Slices are compared in consecutive batches, so that most of a batch are neighbours in one volume, the hardest to
    tell apart; the last batch may be smaller.

    Args:
        volumes: their features; at least one volume. With only one, there is no row for the position.
        trained: name of the adapter of the shuffled control.
        alignment_loss: the training's.
        batch_size: slices per batch, at least 2.
        seed: seed of the shuffling.

    Raises:
        ValueError: ``batch_size`` is below 2, or there is no volume.
    """
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2 slices, got {batch_size}.")
    generator = torch.Generator().manual_seed(seed)
    seen: list[SlicePatches] = []
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(3, dtype=torch.float64))
    for batch in _batches(_remembered(volumes, seen), batch_size):
        keys = batch.foundation
        for name, queries in batch.adapted.items():
            sums[name] += _sums(queries, keys, keys, batch.grid, alignment_loss)
        loose = shuffled(keys.flatten(0, 1), generator).view_as(keys)
        sums[SHUFFLED] += _sums(batch.adapted[trained], shuffled(keys, generator), loose, batch.grid, alignment_loss)
    for batch in _batches(_mean_of_others(seen), batch_size):
        sums[POSITION] += _sums(batch.adapted[POSITION], batch.foundation, batch.foundation, batch.grid, alignment_loss)
    if not seen:
        raise ValueError("volumes must hold at least one volume, got none.")
    slices, patches = sum(len(volume.foundation) for volume in seen), seen[0].foundation.shape[1]
    # uninformative features hit once per slice and once per batch
    sums[CHANCE] += torch.tensor([slices, math.ceil(slices / batch_size), slices * math.log(patches)])
    rows = []
    for name, (in_slice, in_batch, loss) in ((name, values.tolist()) for name, values in sums.items()):
        rows.append(Row(name, in_slice / (slices * patches), in_batch / (slices * patches), loss / slices))
    return Measured(tuple(rows), slices, seen[0].grid, batch_size)


def retrieved(queries: Tensor, keys: Tensor) -> Tensor:
    r"""Whether a patch's own key is the nearest of all, by cosine similarity.

    :math:`r_i = [s_{ii} = \max_j s_{ij}] \,/\, |\{j : s_{ij} = s_{ii}\}|` with
    :math:`s_{ij} = \cos(q_i, k_j)`: equally near keys share the hit, like in a fair draw among them.

    Args:
        queries: adapted features, ``(..., n, C)``; n vectors with the same leading index are compared with each other.
        keys: foundation features, of the same shape; a query's own key is at the same position.

    Returns:
        Float32 ``(..., n)`` in [0, 1]. For uninformative queries the mean is 1 / n.

    Raises:
        ValueError: the shapes differ.
    """
    if queries.shape != keys.shape:
        raise ValueError(f"queries and keys must have the same shape, got {(*queries.shape,)} and {(*keys.shape,)}.")
    similarities = F.normalize(queries.float(), dim=-1) @ F.normalize(keys.float(), dim=-1).transpose(-1, -2)
    own = similarities.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)  # (..., n, 1)
    nearest = own.squeeze(-1) == similarities.amax(dim=-1)
    return nearest / (similarities == own).sum(dim=-1)


def shuffled(keys: Tensor, generator: torch.Generator) -> Tensor:
    """The keys in random order, permuted separately per leading index: the control of :func:`retrieved`.

    Args:
        keys: ``(..., n, C)``.
        generator: source of randomness, on the CPU.
    """
    order = torch.rand(keys.shape[:-1], generator=generator).argsort(dim=-1).to(keys.device)
    return keys.gather(-2, order.unsqueeze(-1).expand_as(keys))


def _sums(
    queries: Tensor, in_slice: Tensor, in_batch: Tensor, grid: tuple[int, int], alignment_loss: PatchInfoNCELoss
) -> Tensor:
    """Hits within slices, hits within the batch, and the sum of the slices' losses."""
    loss = alignment_loss(_as_maps(queries, grid), _as_maps(in_slice, grid)) * len(queries)
    hits = retrieved(queries.flatten(0, 1), in_batch.flatten(0, 1)).sum()
    return torch.stack([retrieved(queries, in_slice).sum(), hits, loss]).double()


def _remembered(volumes: Iterable[SlicePatches], seen: list[SlicePatches]) -> Iterator[SlicePatches]:
    """The volumes; the directions of their foundation features are added to ``seen``, in half precision."""
    for volume in volumes:
        directions = F.normalize(volume.foundation.float(), dim=-1).half()
        seen.append(volume._replace(images=volume.images[:, :0, :0], adapted={}, foundation=directions))
        yield volume


def _mean_of_others(seen: Sequence[SlicePatches]) -> Iterator[SlicePatches]:
    """Each volume with the mean foundation feature at each position in all other volumes as adapted features."""
    if len(seen) < 2:
        return
    sums = [volume.foundation.float().sum(dim=0) for volume in seen]
    total = torch.stack(sums).sum(dim=0)
    for volume, own in zip(seen, sums, strict=True):
        keys = volume.foundation.float()
        yield volume._replace(adapted={POSITION: (total - own).expand_as(keys)}, foundation=keys)


def _as_maps(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    return patches.transpose(1, 2).unflatten(2, grid)


def _batches(volumes: Iterable[SlicePatches], batch_size: int) -> Iterator[SlicePatches]:
    """Consecutive slices of all volumes, ``batch_size`` at a time."""
    left: SlicePatches | None = None
    for volume in volumes:
        left = volume if left is None else _joined(left, volume)
        while len(left.images) >= batch_size:
            yield _part(left, slice(0, batch_size))
            left = _part(left, slice(batch_size, None))
    if left is not None and len(left.images) > 0:
        yield left


def _joined(first: SlicePatches, second: SlicePatches) -> SlicePatches:
    return SlicePatches(
        torch.cat((first.images, second.images)),
        {name: torch.cat((patches, second.adapted[name])) for name, patches in first.adapted.items()},
        torch.cat((first.foundation, second.foundation)),
        first.grid,
    )


def _part(patches: SlicePatches, which: slice) -> SlicePatches:
    adapted = {name: values[which] for name, values in patches.adapted.items()}
    return SlicePatches(patches.images[which], adapted, patches.foundation[which], patches.grid)
