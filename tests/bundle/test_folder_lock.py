from __future__ import annotations

import os
import re
from pathlib import Path
from unittest import mock

import pytest
from support.processes import folder_held

from vqseg_bundle.bundle import FolderLock
from vqseg_bundle.bundle.records.folder_lock import check_unused, folders_left_at_end, leave_folder, use_folder


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


@pytest.mark.parametrize(("work", "place"), [("evaluation", "out"), ("inference", ".")])
def test_a_folder_that_is_used_is_left_by_its_last_run(tmp_path: Path, work: str, place: str) -> None:
    folder, file = tmp_path / "out", f".{work}.lock"

    def is_free() -> bool:
        return (tmp_path / place / file).read_text() == ""

    use_folder(folder, work)
    check_unused(folder, work)
    with folders_left_at_end():
        use_folder(folder, work)
    use_folder(folder, work)
    leave_folder(folder, work)
    assert not is_free()
    leave_folder(folder, work)
    assert is_free()
    leave_folder(folder, work)
    with folder_held(tmp_path / place, file) as holder:
        message = rf"{re.escape(str(folder))}: another {work} \(process {holder}\) is at work in it\. Wait until it has"
        for refused in (check_unused, use_folder):
            with pytest.raises(ValueError, match=message):
                refused(folder, work)


def test_a_folder_whose_lock_is_another_users_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".evaluation.lock").touch()
    monkeypatch.setattr(Path, "open", mock.Mock(side_effect=PermissionError(13, "Permission denied")))
    check_unused(tmp_path, "evaluation")
    use_folder(tmp_path, "evaluation")
    leave_folder(tmp_path, "evaluation")
    expected = f"{tmp_path} cannot be locked (Permission denied): make sure that no other evaluation writes there."
    assert [record.getMessage() for record in caplog.records] == [expected]


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
