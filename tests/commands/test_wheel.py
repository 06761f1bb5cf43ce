"""The commands of an installed wheel, in an empty folder far from the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.bundle_runs import ROOT, Trained, run_python

from vqseg_bundle.commands import bundle as make_bundle
from vqseg_bundle.commands.main import COMMANDS

_EVERY_HELP = """
import sys
from vqseg_bundle.commands.main import COMMANDS, main
for command in (None, *COMMANDS):
    print("BEGIN", command)
    try:
        main(["--help"] if command is None else [command, "--help"])
    except SystemExit as end:
        print("END", end.code)
import vqseg_bundle
print("PACKAGE", vqseg_bundle.__file__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip installs the wheel into."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "installed"), str(wheel)]
    subprocess.run(install, check=True)
    return folder / "installed"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """The folder that the commands are run in."""
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_every_command_explains_itself_and_leaves_the_folder_empty(installed: Path, empty: Path) -> None:
    done = run_python("-c", _EVERY_HELP, cwd=empty, installed=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"PACKAGE {installed}" in done.stdout
    texts = done.stdout.split("BEGIN ")[1:]
    for text, command in zip(texts, (None, *COMMANDS), strict=True):
        assert text.startswith(f"{command}\nusage: vqseg{f' {command}' if command else ''} [-h]")
        assert "\nEND 0\n" in text
    assert list(empty.iterdir()) == []


def test_its_script_makes_the_bundle_that_the_checkout_makes(
    installed: Path, empty: Path, evaluated: Trained, tmp_path: Path
) -> None:
    words = ["bundle", "--run", str(evaluated.output_dir), "--output", "made"]
    done = run_python(str(installed / "bin" / "vqseg"), *words, cwd=empty, installed=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    make_bundle.main([*words[1:3], "--output", str(tmp_path / "made")])
    made, expected = (
        {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (empty / "made", tmp_path / "made")
    )
    assert sorted(made) == sorted(expected)
    assert [name for name in made if made[name] != expected[name]] == []
    assert {"LICENSE", "configs/train.json", "models/model.pt", "vqseg_bundle/commands/main.py"} <= set(made)
