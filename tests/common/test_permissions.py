"""What a user is told of files and folders that may not be read or written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vqseg_bundle.common import find_permission_error, permission_text


def forbidden(path: Path) -> PermissionError:
    """What the system raises there."""
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    expected = f"{tmp_path / 'a'}: cannot be read (Permission denied); change its permissions."
    assert permission_text(forbidden(tmp_path / "a")) == expected


def test_a_folder_above_that_cannot_be_entered_is_named_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut" / "b").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "shut")
    for name in ("b", "b/c", "d"):
        text = permission_text(forbidden(tmp_path / "shut" / name))
        assert text == f"{tmp_path / 'shut'}: cannot be read (Permission denied); change its permissions."


def test_what_was_to_be_written_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "cannot be written (Permission denied); change its permissions, or name another place."
    assert permission_text(forbidden(tmp_path / "new")) == f"{tmp_path}: {expected}"
    (tmp_path / "old").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert permission_text(forbidden(tmp_path / "old")) == f"{tmp_path / 'old'}: {expected}"


def test_an_error_of_no_file_says_what_it_says() -> None:
    assert permission_text(PermissionError(1, "Operation not permitted")) == "[Errno 1] Operation not permitted"


def test_the_error_is_found_behind_others(tmp_path: Path) -> None:
    first, second = forbidden(tmp_path), RuntimeError("Failed to instantiate component")
    second.__cause__ = first
    assert find_permission_error(second) is find_permission_error(first) is first
    assert find_permission_error(RuntimeError()) is find_permission_error(None) is None
