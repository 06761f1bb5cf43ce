"""Files and folders that the user may not read end a command in one line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bundle_runs import CohortFolder

from vqseg_bundle.commands import check
from vqseg_bundle.commands.main import main

ITERATES = Path.iterdir


def forbidden(path: Path) -> PermissionError:
    return PermissionError(errno.EACCES, "Permission denied", str(path))


def shut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom no permission keeps out."""

    def iterdir(path: Path) -> Iterator[Path]:
        if path == folder:
            raise forbidden(path)
        return ITERATES(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)


@pytest.mark.parametrize("name", [".", "labels", "images/sub"])
@pytest.mark.parametrize("command", [["data"], ["choose", "--count", "1"]], ids=lambda words: words[0])
def test_a_folder_that_may_not_be_read_is_named(
    cohort: CohortFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    name: str,
) -> None:
    (cohort.root / "datalist.json").unlink()
    (cohort.root / "images" / "sub").mkdir()
    shut(cohort.root / name, monkeypatch)
    before = sorted(cohort.root.rglob("*"))
    with pytest.raises(SystemExit, match=r"^2$"):
        main([command[0], str(cohort.root), *command[1:]])
    expected = f"vqseg {command[0]}: error: {cohort.root / name}: cannot be read (Permission denied); change its"
    assert capsys.readouterr().err.splitlines()[-1] == f"{expected} permissions."
    assert sorted(cohort.root.rglob("*")) == before


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_monai_wraps_is_said_as_well_and_other_errors_are_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrapped: bool
) -> None:
    (tmp_path / "a").touch()

    def fail(_: Any) -> None:
        if not wrapped:
            raise forbidden(tmp_path / "a")
        raise RuntimeError("Failed to instantiate component") from forbidden(tmp_path / "a")

    monkeypatch.setattr(check, "main", fail)
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["check"])
    expected = f"vqseg check: error: {tmp_path / 'a'}: cannot be read (Permission denied); change its permissions.\n"
    assert capsys.readouterr().err == expected
    monkeypatch.setattr(check, "main", lambda _: [][1])
    with pytest.raises(IndexError, match="out of range"):
        main(["check"])
