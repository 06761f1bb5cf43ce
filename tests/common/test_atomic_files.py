"""Files written in one step."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqseg_bundle.common import gather_objects, process_count, process_rank, replacing, wait_for_all, write_text


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
