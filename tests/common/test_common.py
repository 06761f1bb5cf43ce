"""Files written in one step, tables, and text that nothing runs."""

from __future__ import annotations

import csv
import io
import math
import os
import sys
from pathlib import Path

import pytest
import torch

from vqseg_bundle.common import (
    VISIBLE_UTF8,
    all_finite,
    csv_text,
    gather_objects,
    named_tensors,
    non_finite_names,
    print_any_name,
    process_count,
    process_rank,
    read_json,
    remove_partial_files,
    replacing,
    visible_line,
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


def test_a_key_that_is_there_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [{"b": 1, "c": {}, "b": 2}], "a": 3}')
    with pytest.raises(ValueError, match=r'^key "b" is there twice$'):
        read_json(path)
    path.write_text('{"a": [{"b": 1}, {"b": 2}], "b": {"a": 3}}')
    assert read_json(path) == {"a": [{"b": 1}, {"b": 2}], "b": {"a": 3}}


def test_partial_files_of_ended_processes_are_removed(tmp_path: Path) -> None:
    ended, here, alive = 2**22 + 1, os.getpid(), os.getppid()
    kept = {".lock", "model.pt", f".model.pt.{alive}", ".hidden.nii.gz", ".a.b"}
    for name in {f".model.pt.{ended}", f".run.json.{here}", f".model.pt.{10**30}", *kept}:
        (tmp_path / name).touch()
    (tmp_path / f".folder.{ended}").mkdir()
    found = remove_partial_files(tmp_path)
    assert sorted(found) == sorted([f".model.pt.{ended}", f".run.json.{here}", f".model.pt.{10**30}"])
    assert {path.name for path in tmp_path.iterdir()} == {*kept, f".folder.{ended}"}


@pytest.mark.parametrize("text", ["=1+1", "+1 2", "-x", "@SUM(1)", "\t=1", "\r=1", "-"])
def test_a_spreadsheet_runs_no_cell(text: str) -> None:
    rows = [[text, "a=1", "-1.5", "+2", "-inf", -3, None]]
    found = next(csv.reader(io.StringIO(csv_text(rows), newline="")))
    assert found == ["'" + text.replace("\r", " "), "a=1", "-1.5", "+2", "-inf", "-3", ""]


def test_control_characters_never_reach_a_terminal_or_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, shown = "\x1b]0;x\x07ä\x9b31m\x7f\udcff\t\r\n", b"\\x1b]0;x\\x07\xc3\xa4\\x9b31m\\x7f\\udcff\t\r\n"
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline=""))
    print_any_name()
    print_any_name()
    for stream in (sys.stdout, sys.stderr):
        stream.write(name)
        stream.flush()
        assert stream.buffer.getvalue() == shown
    (tmp_path / "log").write_text(name, encoding=VISIBLE_UTF8, errors="backslashreplace", newline="")
    assert (tmp_path / "log").read_bytes() == shown
    assert shown.decode(VISIBLE_UTF8) == shown.decode()


def test_a_name_is_shown_on_one_line() -> None:
    assert visible_line("a\n12:00 INFO b\r\t\x1b\u2028ä ") == r"a\n12:00 INFO b\r\t\x1b\u2028ä "


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
