from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support.processes import folder_held

from vqseg_bundle.bundle import FolderLock


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_that_another_process_holds_is_refused_and_left_alone(tmp_path):
    with folder_held(tmp_path) as holder:
        before = content(tmp_path)
        message = rf"{re.escape(str(tmp_path))}: another training \(process {holder}\) is at work in it\. Wait until"
        for refused in (FolderLock(tmp_path).check, FolderLock(tmp_path).take):
            with pytest.raises(ValueError, match=message):
                refused()
        assert content(tmp_path) == before


def test_a_process_that_was_killed_leaves_no_lock(tmp_path):
    with folder_held(tmp_path):
        pass
    lock = FolderLock(tmp_path)
    lock.check()
    lock.take()
    assert f"process {os.getpid()} on " in (tmp_path / ".lock").read_text()
    lock.release()
    assert (tmp_path / ".lock").read_text() == ""


def test_the_lock_is_held_against_others(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with FolderLock(tmp_path / "new", "comparison"):
        child = os.fork()
        if child == 0:  # a lock of a file is not the child's
            with (tmp_path / "new" / ".lock").open("r+") as file:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    os._exit(7)
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with folder_held(tmp_path / "new"):
        pass


def test_a_process_may_take_its_folder_again(tmp_path):
    """MONAI's federated client initializes a workflow twice."""
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.take()
    second.check()
    second.take()
    second.take()


def test_looking_makes_no_folder(tmp_path):
    FolderLock(tmp_path / "new").check()
    assert not (tmp_path / "new").exists()


def test_a_file_system_without_locks_is_warned_of_once(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    FolderLock(tmp_path).take()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path} cannot be locked (No locks available): make sure that no other training writes there."
    ]
