"""Files written in one step."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from vqseg_bundle.common import (
    all_finite,
    gather_objects,
    named_tensors,
    non_finite_names,
    process_count,
    process_rank,
    replacing,
    wait_for_all,
    write_text,
)


def test_a_failed_write_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "former")
    with pytest.raises(OSError, match="disk full"):
        _fill_the_disk(path)
    assert path.read_text() == "former"
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]


def _fill_the_disk(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "former"
        raise OSError("disk full")


def test_a_single_process_is_the_first_of_one() -> None:
    wait_for_all()
    assert (process_rank(), process_count(), gather_objects({"a": 1})) == (0, 1, [{"a": 1}])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_bad_number_among_many_is_found(bad, dtype):
    tensors = [torch.zeros(3), torch.ones(4, 5, dtype=dtype), torch.zeros(0), torch.arange(3)]
    assert all_finite(tensors)
    tensors[1][2, 3] = bad
    assert not all_finite(tensors)


def test_large_numbers_whose_squares_overflow_are_finite():
    assert all_finite([torch.full((5,), 3e38)])
    assert all_finite([torch.full((5,), 1e300, dtype=torch.float64)])


def test_without_numbers_all_are_finite():
    assert all_finite([])
    assert all_finite([torch.arange(3), torch.zeros(0)])


def test_tensors_of_a_checkpoint_have_the_names_that_lead_to_them():
    state = {"student": {"weight": torch.tensor(math.nan)}, "optimizer": {"state": {0: [torch.tensor(1.0), None]}}}
    named = dict(named_tensors({**state, "epoch": 3, "scores": (torch.tensor(math.inf),)}))
    assert list(named) == ["student.weight", "optimizer.state.0.0", "scores.0"]
    assert non_finite_names(named.items()) == ["student.weight", "scores.0"]
