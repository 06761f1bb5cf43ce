"""Configuration files with slips in them or in their names, and how the commands of this package are typed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vqseg_bundle.common import begun_by, near_configs_text, project_folder, read_overlay, typed_command, vqseg_words


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"lambda_u": 0.1,\n}', r"a\.json, line \d, column \d+: .*, found '.*'; mend it\."),
        ("a.json", '{"lambda_u": 0.1', r"a\.json, line 1, column \d+: .*, the line or file ends there; mend it\."),
        ("a.json", "[1]", r"a\.json: expected keys with their values, such as .*, found \[1\]\."),
        ("a.json", "[" * 100_000, r"a\.json: it is nested too deeply\."),
        ("a.yaml", "lambda_u: [0.1\n", r"a\.yaml, line 2, column 1: expected ',' or ']', .*; mend it\."),
        ("a.yaml", "", r"a\.yaml: expected keys with their values, .* found None\."),
        ("a.txt", "{}", r"a\.txt: expected a name that ends in \.json, \.yaml or \.yml\."),
    ],
)
def test_a_slip_is_named_with_its_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_overlay(tmp_path / name)


def test_what_monai_reads_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("lambda_u: 0.1\n")
    assert read_overlay(tmp_path / "a.yml") == {"lambda_u": 0.1}
    (tmp_path / "b.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match=r"b\.json: expected a text in UTF-8, found byte 0xff\."):
        read_overlay(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("supervise.json", " Did you mean supervised.json?"),
        ("unimatch.json", " Did you mean baselines/unimatch.json?"),
        ("ema_codebook", " Did you mean ema_codebook.yaml?"),
        ("metadata.json", ""),
        ("no.json", ""),
    ],
)
def test_a_mistyped_name_is_answered_by_the_nearest_ones(name: str, text: str) -> None:
    assert near_configs_text(name, project_folder() / "configs") == text


def test_the_command_is_typed_as_the_shell_finds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert vqseg_words() == ["vqseg"]
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert vqseg_words() == ["python", "-m", "vqseg_bundle"]
    (tmp_path / "vqseg").touch()
    assert vqseg_words() == [str(tmp_path / "vqseg")]
    monkeypatch.chdir(tmp_path.parent)
    assert vqseg_words() == [f"{tmp_path.name}/vqseg"]


def test_what_was_typed_is_known_only_while_it_runs() -> None:
    with begun_by(["vqseg", "train"]):
        assert typed_command() == ["vqseg", "train"]
    assert typed_command() == []
