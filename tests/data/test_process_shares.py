"""How samples and cases are divided over processes."""

from __future__ import annotations

from itertools import chain

import pytest
from torch.utils.data import DataLoader

from vqseg_bundle.data import SharedRandomSampler, process_share


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


def test_the_order_follows_seed_and_epoch_alone() -> None:
    sampler = SharedRandomSampler(range(50), 50, seed=1)
    first = list(sampler)
    assert list(sampler) == first == list(SharedRandomSampler(range(50), 50, seed=1))
    assert list(SharedRandomSampler(range(50), 50, seed=2)) != first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert len(sampler) == 50


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


@pytest.mark.parametrize("count, world, sizes", [(7, 3, [3, 2, 2]), (4, 2, [2, 2]), (3, 3, [1, 1, 1]), (5, 1, [5])])
def test_every_case_belongs_to_one_process(count: int, world: int, sizes: list[int]) -> None:
    shares = [process_share(list(range(count)), rank, world) for rank in range(world)]
    assert [len(share) for share in shares] == sizes
    assert sorted(chain(*shares)) == list(range(count))


def test_of_fewer_cases_than_processes_each_gets_all() -> None:
    assert [process_share([5, 6], rank, 3) for rank in range(3)] == [[5, 6]] * 3
    assert process_share([], 0, 2) == []


def test_a_rank_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rank must lie in \[0, num_processes\), got 3 of 3"):
        process_share([1], 3, 3)
