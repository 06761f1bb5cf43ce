"""A comparison that was killed or interrupted: which trainings go on, and which begin again, and why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from support.bundle_runs import ROOT
from support.comparison_parts import TINY_NETWORK, Comparison, is_alive, wait_until

from scripts.comparison import __main__ as compare

# A comparison in a process of its own, whose runs of seed 1 never end.
DRIVER = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from support.comparison_parts import stand_in
from scripts.comparison import __main__ as compare
notes = Path(sys.argv[1])
hang = lambda run: "true" if run.seed == 0 else f"echo $$ >> {notes}/hanging && sleep 300"
compare.main(sys.argv[2:], stand_in(notes, hang))
"""


@pytest.fixture
def comparison(tmp_path, cohort):
    return Comparison(tmp_path / "first", cohort.root)


ALL = [f"nested / {method} / seed {seed}" for seed in (0, 1) for method in ("supervised", "VQ-Seg")]


def test_a_killed_comparison_goes_on_and_gives_the_same_table(comparison, tmp_path, cohort):
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, str(comparison.notes), *comparison.arguments]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    hanging = comparison.notes / "hanging"
    wait_until(lambda: hanging.exists() and len(hanging.read_text().splitlines()) == 2, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait(10)
    # nothing that it started lives on to write into the runs' folders
    wait_until(lambda: not any(is_alive(int(pid)) for pid in hanging.read_text().split()))
    finished = sorted(path.parent for path in comparison.output.rglob("finished.json"))
    assert [folder.name for folder in finished] == ["seed0", "seed0"]

    comparison.run()
    assert comparison.begun() == {run: 1 if run.endswith("0") else 2 for run in ALL}
    uninterrupted = Comparison(tmp_path / "second", cohort.root)
    uninterrupted.run()
    assert comparison.reports() == uninterrupted.reports()
    assert "| VQ-Seg | 2 / 2 | 0." in comparison.reports()["report.md"]


def test_an_interrupted_training_goes_on_from_what_it_saved(comparison, capsys):
    saved = comparison.notes / "saved.pt"
    torch.save({"engine": {}}, saved)

    def interrupt(run):
        return f"cp {saved} {comparison.output / run.folder}/resume.pt && exit 3" if run.seed == 0 else "exit 3"

    with pytest.raises(SystemExit, match="1"):
        comparison.run(before=interrupt)
    begun = comparison.output / "runs/nested/vq-seg/seed0/begun.json"
    content = json.loads(begun.read_text())
    os.utime(begun.with_name("resume.pt"), (content["started"] + 90, content["started"] + 90))
    capsys.readouterr()
    compare.main([*comparison.arguments, "--dry-run"])
    out = capsys.readouterr().out
    assert "interrupted nested / VQ-Seg / seed 0\nunfinished  nested / supervised / seed 1\n" in out
    comparison.run()
    # those that have saved nothing begin again
    again = {run: 2 for run in ALL if run.endswith("1")}
    on = {run: 1 for run in ALL if run.endswith("0")}
    assert comparison.begun() == {**again, **on, **{f"{run} goes on": 1 for run in on}}
    assert [path.parent.name[:5] for path in comparison.output.glob("aside/*/*/*/begun.json")] == ["seed1", "seed1"]
    seconds = json.loads(begun.with_name("finished.json").read_text())["seconds"]["training"]
    assert 90 < seconds < 100, "of both parts"


def test_a_training_whose_saved_state_is_damaged_begins_again_and_says_why(comparison, capsys):
    with pytest.raises(SystemExit, match="1"):
        comparison.run("--methods", "VQ-Seg", "--seeds", "0", before=lambda run: "exit 3")
    saved = comparison.output / "runs/nested/vq-seg/seed0/resume.pt"
    saved.write_bytes(b"PK\3\4 cut off")
    capsys.readouterr()
    comparison.run("--methods", "VQ-Seg", "--seeds", "0")
    said = f"begins again: {ALL[1]} (resume: {saved.resolve()}: expected weights, found a file that is cut off"
    assert said in capsys.readouterr().out
    assert comparison.begun() == {ALL[1]: 2}
    assert len(list(comparison.output.glob("aside/*/*/*/resume.pt"))) == 1, "kept"


def test_a_training_begun_with_other_code_begins_again(comparison):
    saved = comparison.notes / "saved.pt"
    torch.save({"engine": {}}, saved)
    only = ("--methods", "VQ-Seg", "--seeds", "0")
    with pytest.raises(SystemExit, match="1"):
        comparison.run(*only, before=lambda run: f"cp {saved} {comparison.output / run.folder}/resume.pt && exit 3")
    begun = comparison.output / "runs/nested/vq-seg/seed0/begun.json"
    begun.write_text(json.dumps({**json.loads(begun.read_text()), "code": "of another commit"}))
    comparison.run(*only)
    assert comparison.begun() == {ALL[1]: 2}


def test_what_began_otherwise_begins_again(comparison):
    folder = comparison.output / "runs/nested/vq-seg/seed0"
    comparison.run("--methods", "VQ-Seg", "--seeds", "0")
    (folder / "finished.json").unlink()
    (folder / "resume.pt").touch()
    comparison.write(overrides={**TINY_NETWORK, "lambda_u": 2.0})
    comparison.run("--methods", "VQ-Seg", "--seeds", "0")
    assert comparison.begun() == {ALL[1]: 2}
