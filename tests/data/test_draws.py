"""The order of samples and their augmentation follow from the seed and the number of the draw."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, OneOf, RandAffined, RandGaussianNoised, RandSpatialCropd
from torch import Tensor

from vqseg_bundle.data import Draw, SeededDataset, SharedRandomSampler


def augmented(seed: int = 0) -> SeededDataset:
    generator = torch.Generator().manual_seed(0)
    cases = [{"image": torch.rand(1, 12, 12, generator=generator)} for _ in range(4)]
    noise = OneOf([RandGaussianNoised("image", prob=1.0, std=0.1), RandGaussianNoised("image", prob=1.0, std=5.0)])
    turn = RandAffined("image", prob=0.7, rotate_range=0.4)
    transform = Compose([RandSpatialCropd("image", (8, 8), random_size=False), turn, noise])
    return SeededDataset(CacheDataset(cases, transform, copy_cache=False, progress=False), seed=[seed, 0])


def batches(workers: int, skip: int = 0, global_seed: int = 0) -> list[Tensor]:
    dataset = augmented()
    sampler = SharedRandomSampler(dataset, 12)
    sampler.skip(skip)
    torch.manual_seed(global_seed)
    return [batch["image"] for batch in DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers)]


def test_any_number_of_workers_and_any_start_gives_the_same_samples() -> None:
    whole = batches(0)
    assert len({image.sum().item() for batch in whole for image in batch}) == 12
    for found, expected in ((batches(2, global_seed=7), whole), (batches(0, 6, global_seed=8), whole[3:])):
        assert len(found) == len(expected)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_each_draw_of_a_sample_is_augmented_in_its_own_way() -> None:
    dataset = augmented()
    first = dataset[Draw(1, 0)]["image"]
    assert not torch.equal(dataset[Draw(1, 1)]["image"], first)
    assert torch.equal(dataset[Draw(1, 0)]["image"], first)
    assert not torch.equal(augmented(seed=1)[Draw(1, 0)]["image"], first)


@pytest.mark.parametrize("size, world", [(7, 2), (10, 3), (1, 4), (2, 5)])
def test_batches_of_all_processes_are_those_of_one(size: int, world: int) -> None:
    """Batch n of every process, together, is batch n of one process; also of fewer samples than processes."""
    data = list(range(size))
    whole = DataLoader(data, batch_size=2 * world, sampler=SharedRandomSampler(data, 12 * world, seed=3))
    loaders = [
        DataLoader(data, batch_size=2, sampler=SharedRandomSampler(data, 12, rank, world, seed=3))
        for rank in range(world)
    ]
    parts = list(zip(*loaders, strict=True))
    assert len(parts) == len(whole) == 6
    for batch, shares in zip(whole, parts, strict=True):
        assert sorted(chain(*(share.tolist() for share in shares))) == sorted(batch.tolist())


def test_each_turn_holds_every_sample_once_and_is_shuffled_anew() -> None:
    drawn = list(SharedRandomSampler(range(6), 18, seed=1))
    turns = [drawn[start : start + 6] for start in (0, 6, 12)]
    assert all(sorted(turn) == list(range(6)) for turn in turns)
    assert turns[0] != turns[1] != turns[2]


def test_the_order_follows_the_seed_alone() -> None:
    sampler = SharedRandomSampler(range(50), 50, seed=1)
    torch.manual_seed(3)
    first = list(sampler)
    assert list(sampler) == first == list(SharedRandomSampler(range(50), 50, seed=1))
    assert list(SharedRandomSampler(range(50), 50, seed=2)) != first
    assert list(SharedRandomSampler(range(50), 50, seed=[1, 0])) != list(
        SharedRandomSampler(range(50), 50, seed=[0, 1])
    )
    assert len(sampler) == 50


@pytest.mark.parametrize("rank, world", [(0, 1), (1, 3)])
def test_an_interrupted_process_goes_on_with_the_draws_that_would_have_followed(rank: int, world: int) -> None:
    def numbered(sampler: SharedRandomSampler) -> list[tuple[int, int]]:
        return [(int(draw), draw.number) for draw in sampler]

    sampler = SharedRandomSampler(range(7), 20, rank, world, seed=5)
    whole = numbered(sampler)
    assert [number for _, number in whole] == list(range(rank, 20 * world, world))
    sampler.skip(13)
    assert numbered(sampler) == whole[13:]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([], 1), "data_source must hold at least one sample, got none"),
        (([0], -1), "num_samples must not be negative, got -1"),
        (([0], 1, 2, 2), r"rank must lie in \[0, num_processes\), got 2 of 2"),
    ],
)
def test_a_sampler_refuses_what_it_cannot_deal(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SharedRandomSampler(*arguments)
