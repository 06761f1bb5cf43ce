"""Running a plan with stand-ins for the trainings: what is run and kept, side by side, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from support.bundle_runs import ROOT
from support.comparison_parts import Comparison, wait_until
from support.processes import folder_held

from scripts.comparison import __main__ as compare
from scripts.comparison.bundle_runs import Stage
from vqseg_bundle import __version__


@pytest.fixture
def comparison(tmp_path, cohort):
    return Comparison(tmp_path / "first", cohort.root)


ALL = [f"nested / {method} / seed {seed}" for seed in (0, 1) for method in ("supervised", "VQ-Seg")]


def test_every_run_is_made_once_and_kept(comparison, capsys):
    comparison.run()
    assert comparison.begun() == dict.fromkeys(ALL, 1)
    assert "4 runs planned: 4 missing" in capsys.readouterr().out
    before = comparison.reports()
    comparison.run()
    assert comparison.begun() == dict.fromkeys(ALL, 1)
    assert comparison.reports() == before
    assert "4 runs planned: 4 finished" in capsys.readouterr().out
    record = json.loads((comparison.output / "runs/nested/supervised/seed1/finished.json").read_text())
    assert (record["labeled"], record["unlabeled"], record["settings"]["seed"]) == (2, 0, 1)
    assert set(record["seconds"]) == {"training", "evaluating"}
    assert (comparison.output / "plan.yaml").read_text() == comparison.plan.read_text()


def test_a_changed_plan_runs_only_what_changed_again(comparison, capsys):
    comparison.run()
    comparison.write(
        methods={"supervised": {"configs": ["supervised.json"]}, "VQ-Seg": {"overrides": {"lambda_u": 2.0}}}
    )
    compare.main([*comparison.arguments, "--dry-run"])
    out = capsys.readouterr().out
    assert "finished    nested / supervised / seed 0\n" in out
    assert "changed     nested / VQ-Seg / seed 0 (lambda_u: not given -> 2.0)\n" in out
    comparison.run()
    assert comparison.begun() == {run: 2 if "VQ-Seg" in run else 1 for run in ALL}
    assert "begins again: nested / VQ-Seg / seed 1 (lambda_u: not given -> 2.0)" in capsys.readouterr().out
    aside = sorted(comparison.output.glob("aside/nested/vq-seg/*/finished.json"))
    assert [path.parent.name[:6] for path in aside] == ["seed0-", "seed1-"]


def test_changed_data_and_configurations_are_noticed(comparison, cohort, capsys):
    comparison.run("--seeds", "0")
    record_path = comparison.output / "runs/nested/supervised/seed0/finished.json"
    record = json.loads(record_path.read_text())
    record["settings"]["configs"]["supervised.json"] = "other"
    record["settings"]["version"] = "0.0.1"
    record_path.write_text(json.dumps(record))
    image = next(cohort.root.glob("images/case_0*"))
    image.write_bytes(image.read_bytes() + b"\0")
    compare.main([*comparison.arguments, "--dry-run"])
    out = capsys.readouterr().out
    data = "the data or their split, or a file that an override names"
    expected = f"configs/supervised.json, version: 0.0.1 -> {__version__}, {data}"
    assert f"changed     nested / supervised / seed 0 ({expected})" in out
    assert f"changed     nested / VQ-Seg / seed 0 ({data})" in out
    assert "missing     nested / VQ-Seg / seed 1\n" in out


def test_an_unfinished_run_is_put_aside_and_starts_again(comparison, capsys):
    folder = comparison.output / "runs/nested/vq-seg/seed0"
    folder.mkdir(parents=True)
    (folder / "model.pt").write_text("half")
    compare.main([*comparison.arguments, "--dry-run"])
    assert "unfinished  nested / VQ-Seg / seed 0\n" in capsys.readouterr().out
    comparison.run()
    assert not (folder / "model.pt").exists()
    (kept,) = comparison.output.glob("aside/nested/vq-seg/seed0-*/model.pt")
    assert kept.read_text() == "half"


def test_a_failed_run_is_told_and_the_others_go_on(comparison, capsys):
    def fail(run):
        return "echo out of memory; exit 3" if str(run) == ALL[1] else "true"

    with pytest.raises(SystemExit, match="1"):
        comparison.run(before=fail)
    out = capsys.readouterr().out
    assert f"FAILED {ALL[1]}: training failed, the end of " in out
    assert out.rstrip().endswith("console_training.log:\nout of memory")
    assert comparison.begun() == dict.fromkeys(ALL, 1)
    assert "Missing runs: VQ-Seg seed 0." in comparison.reports()["report.md"]
    comparison.run()
    assert comparison.begun() == {run: 2 if run == ALL[1] else 1 for run in ALL}
    assert "Missing runs" not in comparison.reports()["report.md"]


def test_commands_that_write_no_results_have_failed(comparison, capsys):
    def nothing(run, dataset, output_dir, resume):
        return [Stage("training", ["true"])]

    with pytest.raises(SystemExit, match="1"):
        compare.main([*comparison.arguments, "--seeds", "0", "--methods", "VQ-Seg"], nothing)
    assert "the commands ended well, but wrote no metrics.csv" in capsys.readouterr().out


def test_filters_run_a_part_and_the_report_keeps_all(comparison):
    comparison.run("--methods", "VQ-Seg")
    assert set(comparison.begun()) == {ALL[1], ALL[3]}
    comparison.run("--seeds", "1", "--datasets", "nested")
    assert set(comparison.begun()) == {ALL[1], ALL[2], ALL[3]}
    assert "Missing runs: supervised seed 0." in comparison.reports()["report.md"]


def test_a_report_needs_neither_data_nor_runs(comparison, capsys):
    compare.main([*comparison.arguments, "--report"])
    assert f"no report: {comparison.output} holds no finished run of this plan" in capsys.readouterr().out
    comparison.run()
    before = comparison.reports()
    comparison.cohort.rename(comparison.cohort.with_name("gone"))
    (comparison.output / "report.md").unlink()
    compare.main([*comparison.arguments, "--report"])
    out = capsys.readouterr().out
    assert "not compared with its data:" in out
    assert "datasets.nested: dataset_dir" in out
    assert comparison.reports() == before
    with pytest.raises(SystemExit, match="2"):
        comparison.run()
    assert "expected a folder, found nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "UniMatch"], "--methods: expected some of supervised, VQ-Seg, found 'UniMatch'"),
        (["--seeds", "9"], "--seeds: expected some of 0, 1, found '9'"),
        (["--jobs", "0"], "--jobs: expected at least 1, found 0"),
        (["--dataset-dir", "other=DIR"], "--dataset-dir: expected 'nested=DIR', found 'other=DIR'"),
        (["--dataset-dir", "nested="], "--dataset-dir: expected 'nested=DIR', found 'nested='"),
    ],
)
def test_the_command_ends_with_a_message(more, message, comparison, capsys):
    with pytest.raises(SystemExit, match="2"):
        comparison.run(*more)
    assert message in capsys.readouterr().err
    assert comparison.begun() == {}


def test_bad_settings_are_refused_before_the_first_run(comparison, capsys):
    comparison.write(methods={"supervised": {}, "VQ-Seg": {"overrides": {"perturb_prob": 2.0}}})
    with pytest.raises(SystemExit, match="2"):
        comparison.run()
    assert "methods.VQ-Seg on datasets.nested: perturbation: " in capsys.readouterr().err
    assert comparison.begun() == {}


def test_one_comparison_at_a_time(comparison, capsys):
    with folder_held(comparison.output) as holder, pytest.raises(SystemExit, match="2"):
        comparison.run()
    assert f"another comparison (process {holder}) is at work in it" in capsys.readouterr().err
    comparison.run("--seeds", "0")
    assert len(comparison.begun()) == 2


def test_a_spoiled_record_is_named(comparison, capsys):
    comparison.run("--seeds", "0", "--methods", "VQ-Seg")
    path = comparison.output / "runs/nested/vq-seg/seed0/finished.json"
    path.write_text("{}")
    with pytest.raises(SystemExit, match="2"):
        comparison.run()
    assert f"{path}: expected the record of a finished run, but: KeyError('settings')" in capsys.readouterr().err


def test_control_c_says_how_to_go_on(comparison, capsys):
    def interrupt():
        wait_until((comparison.notes / "begun").exists)
        os.kill(os.getpid(), signal.SIGINT)

    # a shell that runs the tests in the background has them ignore the signal
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(SystemExit, match="130"):
            comparison.run(before=lambda run: "sleep 300")
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err
    assert list(comparison.output.rglob("finished.json")) == []


def demo_plan(folder: Path, steps: int) -> Path:
    """The demo's plan with short trainings, in epochs of two steps."""
    content = yaml.safe_load((ROOT / "plans" / "demo.yaml").read_text())
    content["overrides"].update(max_iterations=steps, iterations_per_epoch=2)
    plan = folder / "demo.yaml"
    plan.write_text(yaml.safe_dump(content, sort_keys=False))
    return plan


@pytest.mark.slow
def test_the_demo_plan_for_real(tmp_path):
    plan = demo_plan(tmp_path, 4)
    output = tmp_path / "out"
    compare.main(["--plan", str(plan), "--output", str(output)])
    runs = {path.parent.relative_to(output / "runs").as_posix() for path in output.rglob("finished.json")}
    assert runs == {f"demo/{method}/seed{seed}" for method in ("supervised", "vq-seg") for seed in (0, 1)}
    for run in runs:
        kept = {path.name for path in (output / "runs" / run).iterdir()}
        assert kept >= {"model.pt", "config.json", "run.json", "training.log", "metrics.csv", "summary.json"}
        assert "Epoch[1] Metrics -- val_mean_dice" not in (output / "runs" / run / "training.log").read_text()
    report = (output / "report.md").read_text()
    assert "| supervised | 2 / 0 | 0." in report
    assert "| VQ-Seg | 2 / 14 | 0." in report
    assert "missing" not in report.split("##")[1]


@pytest.mark.slow
def test_a_training_killed_in_its_middle_ends_with_the_same_table(tmp_path):
    plan = demo_plan(tmp_path, 8)

    def command(output: Path) -> list[str]:
        words = ["--plan", str(plan), "--output", str(output), "--methods", "VQ-Seg", "--seeds", "0"]
        return [sys.executable, "-m", "scripts.comparison", *words]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with subprocess.Popen(command(killed), cwd=ROOT) as driver:
        wait_until((killed / "runs/demo/vq-seg/seed0/resume.previous.pt").exists, driver)
        driver.send_signal(signal.SIGKILL)
    assert not list(killed.rglob("finished.json"))
    subprocess.run(command(killed), cwd=ROOT, check=True)
    assert "resumed" in (killed / "runs/demo/vq-seg/seed0/training.log").read_text()
    assert not (killed / "aside").exists()
    subprocess.run(command(whole), cwd=ROOT, check=True)
    assert (killed / "cases.csv").read_text() == (whole / "cases.csv").read_text()
