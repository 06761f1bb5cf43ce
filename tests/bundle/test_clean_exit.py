"""Input at fault ends a command with a message alone."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from vqseg_bundle.bundle import exit_cleanly


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, PermissionError])
def test_exit_cleanly_ends_with_the_message_alone(kind: type[Exception]) -> None:
    def refuse(text: str, *, name: str) -> None:
        raise kind(f"{text} {name}")

    with pytest.raises(SystemExit, match=r"^no such case_1$") as caught:
        exit_cleanly(refuse, "no such", name="case_1")
    assert isinstance(caught.value.__cause__, kind)


def test_exit_cleanly_says_what_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.touch()
    with pytest.raises(SystemExit, match=r"train\.json: cannot be read \(Permission denied\); change its permissions"):
        exit_cleanly(mock.Mock(side_effect=PermissionError(13, "Permission denied", str(path))))


def test_exit_cleanly_passes_results_and_bugs_through() -> None:
    assert exit_cleanly(max, 2, 3) == 3
    with pytest.raises(ZeroDivisionError, match="division"):
        exit_cleanly(lambda: 1 // 0)
