"""Parts of a list of cases."""

from __future__ import annotations

from itertools import chain

import pytest

from vqseg_bundle.data import evenly_spread, process_share


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


@pytest.mark.parametrize(
    "images, count, expected",
    [("abcdefg", 3, "adg"), ("abcdef", 4, "ace"), ("abc", 9, "abc"), ("abc", 0, "a"), ("", 2, "")],
)
def test_cases_are_taken_in_equal_steps(images: str, count: int, expected: str) -> None:
    assert [case["image"] for case in evenly_spread([{"image": name} for name in images], count)] == list(expected)


def test_an_image_in_two_lists_counts_once() -> None:
    labeled, unlabeled = {"image": "a", "label": "a"}, {"image": "a"}
    assert evenly_spread([labeled, {"image": "b"}, unlabeled], 2) == [unlabeled, {"image": "b"}]
