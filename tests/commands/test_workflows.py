"""``vqseg train``, ``evaluate`` and ``segment``: the command of MONAI that each stands for."""

from __future__ import annotations

import logging
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest
from support.bundle_runs import ROOT, Trained, command_here, make_volumes

from vqseg_bundle.bundle.records.folder_lock import leave_folder
from vqseg_bundle.commands import workflows
from vqseg_bundle.commands.main import main
from vqseg_bundle.commands.watch import Session, arrivals, watch
from vqseg_bundle.commands.workflows import _EVALUATE, _PLAN, _SEGMENT, _TRAIN, _may_name_anything, bundle_words
from vqseg_bundle.common import shell_line, vqseg_words
from vqseg_bundle.data import list_volumes

EVALUATED = "['configs/train.json','configs/evaluate.json']"


def test_in_the_checkout_they_are_the_commands_of_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = bundle_words(_TRAIN, ["--dataset-dir", "DIR", "--output_dir=OUT", "--resume"])
    expected = "run training --config_file configs/train.json --dataset_dir DIR --output_dir OUT --resume true"
    assert words == expected.split()
    words = bundle_words(_EVALUATE, ["--checkpoint", "model.pt"])
    assert words[:4] == ["run", "evaluating", "--config_file", EVALUATED]
    assert words[4:] == ["--checkpoint", "model.pt", "--output_dir", "runs/evaluation"]
    words = bundle_words(_SEGMENT, ["FOLDER"])
    expected = "run inference --config_file configs/inference.json --dataset_dir FOLDER --output_dir runs/train"
    assert words == expected.split()


def test_elsewhere_the_configurations_are_found_and_nothing_is_written_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = bundle_words(_TRAIN, [])
    assert words[3] == str(ROOT / "configs" / "train.json")
    assert words[4:] == [
        *("--bundle_root", str(ROOT), "--cohort#demo_dir", "data/demo_cohort", "--output_dir", "runs/train")
    ]
    assert "--cohort#demo_dir" not in bundle_words(_TRAIN, ["--datalist", "list.json"])


@pytest.mark.parametrize("typed", ["supervised.json,own.json", "['configs/train.json','supervised.json','own.json']"])
def test_overlays_are_found_here_or_in_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.json").write_text("{}")
    configs = ROOT / "configs"
    files = [str(configs / "train.json"), str(configs / "supervised.json"), "own.json"]
    assert bundle_words(_TRAIN, ["--config_file", typed])[3] == f"[{','.join(map(repr, files))}]"
    files.append(str(configs / "evaluate.json"))
    assert bundle_words(_EVALUATE, ["--config_file", typed])[3] == f"[{','.join(map(repr, files))}]"


@pytest.mark.parametrize(
    ("typed", "anything"),
    [
        ([], False),
        (["--config_file", "supervised.json"], False),
        (["--config_file", "supervised.json,own.json"], True),
        (["--optimizer", "{'_target_': 'SGD'}"], True),
    ],
)
def test_monai_is_whole_for_components_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str], anything: bool
) -> None:
    for folder in (tmp_path, ROOT):
        monkeypatch.chdir(folder)
        (tmp_path / "own.json").write_text("{}")
        words = [word.replace("own.json", str(tmp_path / "own.json")) for word in typed]
        assert _may_name_anything(bundle_words(_TRAIN, words)) is anything


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "-device", "cpu"], r"vqseg train: error: expected --key value, found '-device'; vqseg train --help"),
        (["train", "DIR", "5"], r"vqseg train: error: expected one folder, found 'DIR' and '5'; keys begin with --"),
        (["segment", "A", "B"], r"vqseg segment: error: expected one folder or volume, found 'A' and 'B'"),
        (["plan", "DIR", "--dataset-dir", "D"], r"error: --dataset_dir is given twice: DIR and D; give it once\."),
        (
            ["train", "--max_iterations=4", "--max-iterations", "0"],
            r"--max_iterations is given twice: 4 and 0; give it",
        ),
        (["train", "--config_file", "no.json"], r"no\.json: there is no such file, neither here nor in .*configs\.\n"),
        (["train", "--config_file", "supervised"], r"configs\. Did you mean supervised\.json\?\n"),
        (["evaluate", "--config_file", "x/unimatch.json"], r"configs\. Did you mean baselines/unimatch\.json\?\n"),
        (["segment", "--output_dir", "OUT"], r"vqseg segment: error: expected a folder of volumes"),
        (["data"], r"vqseg data: error: expected a folder: vqseg data DIR"),
    ],
)
def test_a_wrong_word_is_refused_by_a_message(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert re.search(message, capsys.readouterr().err)


def test_a_folder_may_be_typed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for workflow in (_TRAIN, _PLAN, _EVALUATE):
        expected = bundle_words(workflow, ["--dataset_dir", "DIR", "--seed", "3"])
        assert bundle_words(workflow, ["DIR", "--seed", "3"]) == expected
    assert bundle_words(_TRAIN, ["$x"])[4:6] == ["--dataset_dir", "./$x"]


def test_overlays_given_apart_are_joined_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.json", "b,c.json"):
        (tmp_path / name).write_text("{}")
    configs = ROOT / "configs"
    typed = ["--config_file", "a.json", "--config_file=pfa.json,supervised.json"]
    files = [str(configs / "train.json"), "a.json", str(configs / "pfa.json"), str(configs / "supervised.json")]
    assert bundle_words(_TRAIN, typed)[3] == f"[{','.join(map(repr, files))}]"
    typed = ["--config_file", "['b,c.json']", "--config_file", "a.json"]
    assert bundle_words(_TRAIN, typed)[3] == f"['{configs / 'train.json'}','b,c.json','a.json']"


def test_a_slip_in_an_overlay_is_named_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = tmp_path / "own.json"
    overlay.write_text('{"lambda_u": 0.5,\n "perturb_prob": 0.1,}')
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--config_file", str(overlay)])
    assert re.search(r"error: .*own\.json, line 2, column \d+: .*; mend it\.\n$", capsys.readouterr().err)


def test_weights_of_other_data_are_not_evaluated_on_the_demo_cohort(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = trained.output_dir / "model.pt"
    for words in (["--output_dir", str(trained.output_dir)], ["--checkpoint", f"{weights},other.pt"]):
        with pytest.raises(SystemExit, match="2"):
            main(["evaluate", *words])
        message = f"no dataset_dir, so the demo cohort is meant, but {weights} is not of the demo: give --dataset_dir"
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / "data.json").write_text('{"dataset_dir": "scans"}')
    assert bundle_words(_EVALUATE, ["--output_dir", str(trained.output_dir), "--config_file", "data.json"])
    assert bundle_words(_EVALUATE, ["--checkpoint", str(ROOT / "models" / "model.pt")])


def test_monais_warning_of_the_places_of_overlays_is_left_out() -> None:
    workflows._quieten()
    (quiet,) = {each for each in logging.getLogger("monai.bundle.workflows").filters if callable(each)}
    said = [logging.makeLogRecord({"msg": text}) for text in ("Not all config files are in configs. If", "another")]
    assert [quiet(record) for record in said] == [False, True]


def test_a_printed_command_is_what_a_shell_reads() -> None:
    words = ["--config_file", EVALUATED, "a b", "it's", '["x"]', "$HOME's"]
    assert shlex.split(shell_line(words)) == words
    assert shell_line(words).startswith(f"--config_file \"{EVALUATED}\" 'a b'")


def test_the_help_of_an_evaluation_lists_no_keys_of_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        workflows.evaluate(["--help"])
    printed = capsys.readouterr().out
    assert "mirror_axes []" in printed
    assert "amp auto" in printed
    assert "inference_memory_gb null" in printed
    assert "learning_rate" not in printed


def test_help_lists_keys_and_imports_nothing_that_takes_time() -> None:
    code = (
        "import sys; from vqseg_bundle.commands.main import main\ntry: main(['train', '--help'])\nexcept SystemExit: "
    )
    code += "print(sorted({'monai', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "--max_iterations  optimiser steps" in done.stdout
    assert "lambda_u 1.0" in " ".join(done.stdout.split())
    assert "patch_size planned" in " ".join(done.stdout.split())
    assert "checkpoint null" not in " ".join(done.stdout.split())
    assert done.stdout.endswith("[]\n")


def test_the_command_runs_what_it_prints(tmp_path: Path) -> None:
    done = command_here("segment", str(tmp_path), "--output_dir", "OUT", module="vqseg_bundle", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("runs python -m monai.bundle run inference --config_file ")
    assert "expected" in done.stderr


def test_a_plan_is_followed_by_the_training_that_takes_it(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    result = command_here("plan", "--plan_output", str(plan), "--patch_size", "[32,32]", module="vqseg_bundle")
    assert result.returncode == 0, result.stderr
    assert plan.is_file()
    following = f"next: {shell_line([*vqseg_words(), 'train'])} --plan_file {plan} --patch_size '[32,32]'"
    assert result.stdout.splitlines()[-1] == following


@pytest.mark.parametrize(
    ("typed", "following"),
    [
        (["--plan-output", "p-1.json"], "--plan_file p-1.json"),
        (["--plan-output=p-1.json"], "--plan_file p-1.json"),
        (["--plan_output", "p.json", "--dataset-dir", "a=b"], "--plan_file p.json --dataset_dir a=b"),
        (["--plan_file", "old.json", "--plan_output", "p.json"], "--plan_file p.json"),
        (["--plan_file", "old.json"], "--plan_file old.json"),
    ],
)
def test_the_training_by_a_plan_takes_its_file_however_it_was_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: list[str], following: str
) -> None:
    monkeypatch.setattr(workflows, "_run", lambda *_: None)
    # where the environment is not active, the shell does not find the command by its name
    monkeypatch.setattr("shutil.which", lambda name: None)
    workflows.plan(typed)
    named, _, words = capsys.readouterr().out.partition(" train ")
    assert (named.startswith("next: "), words) == (True, f"{following}\n")
    assert named != "next: vqseg"


def test_a_watched_folder_is_segmented_as_volumes_arrive(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    words = ["segment", "in", "--watch", "--output_dir", "out", "--checkpoint", str(trained.output_dir / "model.pt")]
    command = [sys.executable, "-m", "vqseg_bundle", *words, "--device", "cpu"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "watching in; Ctrl-C ends\n"
        (tmp_path / "in" / "broken.nii").write_bytes(b"no volume")
        (tmp_path / "in" / "other").mkdir()
        for place in ("new.nii.gz", "other/new.nii.gz"):
            nib.save(make_volumes(9)[0], tmp_path / "in" / place)
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[0].startswith("in/broken.nii: ")
        assert lines[1:] == ["in/new.nii.gz: out/predictions\n", "in/other: out/predictions/other/predictions\n"]
        assert (tmp_path / "out" / "predictions" / "new_pred.nii.gz").is_file()
        assert (tmp_path / "out" / "predictions" / "other" / "predictions" / "new_pred.nii.gz").is_file()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=180)
        assert (process.returncode, errors.splitlines()[-1:]) == (130, ["vqseg segment: stopped by SIGINT."])
        assert "Traceback" not in errors
    finally:
        process.kill()


def test_a_volume_that_is_still_written_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(b"1")
    seen, ready = arrivals(tmp_path, {}, {})
    assert ready == []
    path.write_bytes(b"12")
    seen, ready = arrivals(tmp_path, seen, {})
    assert ready == []
    assert arrivals(tmp_path, seen, {})[1] == [path]
    assert arrivals(tmp_path, seen, {path.resolve(): seen[path]})[1] == []


def test_results_in_a_watched_folder_are_no_arrivals(tmp_path: Path) -> None:
    for name in ("predictions", "previous-20261130-120000", "patient"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.nii").write_bytes(b"1")
    seen, _ = arrivals(tmp_path, {}, {})
    assert arrivals(tmp_path, seen, {})[1] == [tmp_path / "patient"]


@pytest.mark.parametrize("key", ["config_file", "bundle_root"])
def test_keys_that_a_watch_cannot_take_are_refused_before_it_begins(tmp_path: Path, key: str) -> None:
    with pytest.raises(SystemExit, match=rf"--{key} cannot be given with --watch"):
        watch({"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out"), key: "x"})


def test_volumes_of_one_name_do_not_replace_each_other_while_watching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = tmp_path / "out" / "predictions"
    former.mkdir(parents=True)
    (former / "inference.log").touch()
    for name in ("p1", "p2"):
        (tmp_path / name).mkdir()
        nib.save(make_volumes(9)[0], tmp_path / name / "scan.nii.gz")
    calls = []
    monkeypatch.setattr("vqseg_bundle.bundle.segment", lambda *places, **keys: calls.append((*places, keys)))
    session = Session(tmp_path / "out", {"contact_sheet": True}, list_volumes)
    assert sorted(path.name[:9] for path in (tmp_path / "out").iterdir()) == [".inferenc", "previous-"]
    for name in ("p1", "p2"):
        session.segment(tmp_path / name, list_volumes(tmp_path / name))
    leave_folder(former, "inference")
    assert [keys.pop("cases")["_target_"]()[0]["case"] for _, _, keys in calls] == ["scan", "scan"]
    assert [keys for _, _, keys in calls] == [
        {"contact_sheet": True},
        {"contact_sheet": True, "prediction_dir#output_dir": str(former / "p2")},
    ]
