"""The commands of an installed wheel, in an empty folder far from the checkout, and the former names of commands."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_editable
from support.bundle_runs import ROOT, TINY, CohortFolder, Trained, as_arguments, command_here, run_python

from scripts import FORMER_NAMES
from vqseg_bundle.commands import bundle as make_bundle
from vqseg_bundle.commands.main import COMMANDS

_COMMANDS = """
import sys
import vqseg_bundle
from vqseg_bundle.commands.main import COMMANDS, main
print("PACKAGE", vqseg_bundle.__file__)
for command in COMMANDS:
    print("BEGIN", command)
    try:
        main([command, "--help"])
    except SystemExit as end:
        print("END", end.code)
main(["bundle", *sys.argv[1:]])
"""


_WORKFLOWS = """
import json, shlex, sys
from vqseg_bundle.commands.main import main
main(["train", *sys.argv[1:]])
for command in json.load(open("runs/train/run.json"))["next"]:
    print("NEXT", command)
    main(shlex.split(command.partition("vqseg")[2].removeprefix("_bundle")))
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


def test_its_script_explains_the_commands(installed: Path, empty: Path) -> None:
    done = run_python(str(installed / "bin" / "vqseg"), "--help", cwd=empty, installed=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"  {command} " in done.stdout for command in COMMANDS)


def test_every_command_explains_itself_and_bundle_makes_what_the_checkout_makes(
    installed: Path, empty: Path, evaluated: Trained, tmp_path: Path
) -> None:
    run = ["--run", str(evaluated.output_dir), "--output"]
    done = run_python("-c", _COMMANDS, *run, "made", cwd=empty, installed=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"PACKAGE {installed}" in done.stdout
    texts = done.stdout.split("BEGIN ")[1:]
    for text, command in zip(texts, COMMANDS, strict=True):
        assert text.startswith(f"{command}\nusage: vqseg {command} [-h]")
        assert "\nEND 0\n" in text
    assert [path.name for path in empty.iterdir()] == ["made"]
    make_bundle.main([*run, str(tmp_path / "made")])
    made, expected = (
        {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (empty / "made", tmp_path / "made")
    )
    assert sorted(made) == sorted(expected)
    assert [name for name in made if made[name] != expected[name]] == []
    assert {"LICENSE", "configs/train.json", "models/model.pt", "vqseg_bundle/commands/main.py"} <= set(made)


def test_from_an_empty_folder_a_training_is_followed_by_the_commands_it_prints(
    installed: Path, empty: Path, shared_cohort: CohortFolder
) -> None:
    words = ["--dataset_dir", str(shared_cohort.root), *as_arguments(TINY)]
    done = run_python("-c", _WORKFLOWS, *words, cwd=empty, installed=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    run, prediction = empty / "runs" / "train", "predictions/case_5_pred.nii.gz"
    assert [path.name for path in sorted((empty / "runs").iterdir())] == ["train", "train_bundle"]
    for made in ("model.pt", "report.html", prediction, f"inference/{prediction}"):
        assert (run / made).is_file(), made
    assert (empty / "runs" / "train_bundle" / "models" / "model.pt").is_file()
    # what is printed is what is recorded
    commands = [line.removeprefix("runs ") for line in done.stdout.splitlines() if line.startswith("runs ")]
    assert len(commands) == 3
    assert all(str(installed / "vqseg_bundle" / "resources") in command for command in commands)
    record = json.loads((run / "run.json").read_text())
    assert shlex.split(commands[0]) == record["command"]
    printed = [line.partition("next: ")[2] for line in done.stdout.splitlines() if "next: " in line]
    evaluate, segment, bundle = record["next"]
    # each command is followed by two of those that are left
    pack = f"{bundle.partition(' bundle ')[0]} pack --bundle runs/train_bundle --output ."
    assert printed == [evaluate, segment, segment, bundle, bundle, pack]


def test_an_editable_install_leaves_the_package_to_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build_editable(str(tmp_path))) as wheel:
        assert {name.split("/")[0].split("-")[0] for name in wheel.namelist()} == {
            "_editable_impl_vqseg_bundle.pth",
            "vqseg_bundle",
        }
        assert not [name for name in wheel.namelist() if name.startswith("vqseg_bundle/")]


@pytest.mark.parametrize(("former", "command"), FORMER_NAMES.items())
def test_a_former_name_runs_the_command_and_says_its_new_name(former: str, command: str) -> None:
    result = command_here("--help", module=former)
    assert (result.returncode, result.stderr) == (0, f"python -m {former} is now: vqseg {command}\n")
    assert f"usage: vqseg {command}" in result.stdout


@pytest.mark.parametrize(
    "tool", ["comparison", "published", "alignment", "benchmark", "figures", "planning_table", "sparse_labels"]
)
def test_a_research_tool_says_how_it_is_called(tool: str) -> None:
    result = command_here("--help", module=f"scripts.{tool}")
    assert result.returncode == 0
    assert f"python -m scripts.{tool}" in result.stdout
