"""Training, evaluation and inference by the commands that a user types."""

from __future__ import annotations

import csv
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from support.bundle_runs import (
    LABELS,
    ROOT,
    TINY,
    CohortFolder,
    Trained,
    as_arguments,
    command_here,
    keys_of,
    read_json,
    run_command,
    run_here,
)
from support.processes import CONTEXT
from support.resumption import differences, run_killed

from vqseg_bundle.networks import VQSegNet


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def test_training_leaves_weights_record_logs_and_curves(trained: Trained) -> None:
    found = {path.name for path in trained.output_dir.iterdir()}
    assert found >= {"model.pt", "model.json", "resume.pt", "config.json", "run.json", "training.log", "tensorboard"}
    assert list((trained.output_dir / "tensorboard").glob("events.out.tfevents.*"))
    record = read_json(trained.output_dir / "model.json")
    assert record["labels"] == LABELS
    assert record["preprocessing"]["patch_size"] == [32, 32]
    assert read_json(trained.output_dir / "run.json")["data_digest"]
    log = (trained.output_dir / "training.log").read_text()
    assert "cohort nested: 2 labelled, 2 unlabelled, 1 validation, 2 test cases" in log
    assert "adapter (PFA) is off; add configs/pfa.json" in log


def test_trained_weights_are_a_plain_state_dict_of_the_deployed_network(trained: Trained) -> None:
    state = weights(trained.output_dir / "model.pt")
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert not [key for key in state if "reconstruction_decoder" in key]
    arguments = read_json(trained.output_dir / "model.json")["network"]
    network = VQSegNet(**{**arguments, "reconstruction": False})
    network.load_state_dict(state)
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 3, 32, 32)


def test_words_on_the_command_line_mean_what_they_say(trained: Trained) -> None:
    config = read_json(trained.output_dir / "config.json")
    assert config["amp"] is False
    assert config["foundation_weights"] is None
    assert config["max_iterations"] == 6


def test_the_short_last_epoch_validates_and_is_the_end(trained: Trained) -> None:
    assert "Epoch[2] Metrics -- val_mean_dice" in trained.result.stdout
    assert "Epoch[3]" not in trained.result.stdout
    engine = torch.load(trained.output_dir / "resume.pt", weights_only=True)["engine"]
    assert engine["iteration"] == engine["total_iterations"] == 6
    assert engine["epoch_length"] == 4


def test_training_again_puts_the_earlier_run_aside(trained: Trained, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    shutil.copytree(trained.output_dir, output_dir)
    (output_dir / "notes.txt").write_text("mine")
    run_here("training", "train.json", **keys_of(trained.cohort, output_dir, **{**TINY, "max_iterations": 1}))
    (previous,) = output_dir.glob("previous-*")
    for name in ("model.pt", "model.json", "resume.pt", "config.json", "training.log", "progress.csv", "progress.png"):
        assert (previous / name).read_bytes() == (trained.output_dir / name).read_bytes()
    assert (output_dir / "notes.txt").read_text() == "mine"
    assert read_json(output_dir / "config.json")["max_iterations"] == 1


def test_a_killed_training_ends_as_the_uninterrupted_one(trained: Trained, tmp_path: Path) -> None:
    """Killed as a machine kills, amid its second epoch; it goes on with two workers."""
    settings = keys_of(trained.cohort, tmp_path, **TINY)
    process = CONTEXT.Process(target=run_killed, args=("train.json", settings, "step", 6))
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL
    assert torch.load(tmp_path / "resume.pt", weights_only=True)["engine"]["iteration"] == 4
    run_here("training", "train.json", **settings, resume=True, num_workers=2)
    assert differences(tmp_path, trained.output_dir) == []
    assert "after iteration 4" in (tmp_path / "training.log").read_text()
    with (tmp_path / "progress.csv").open(newline="") as file:
        assert [row["iteration"] for row in csv.DictReader(file)] == ["4", "6"]
    assert not list(tmp_path.glob("previous-*"))


def test_other_settings_are_refused_with_a_list_or_accepted(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A finished training goes on for longer, at another rate; what is learnt from stays."""
    shutil.copytree(trained.output_dir, tmp_path / "out")
    changed = {**TINY, "max_iterations": 9, "learning_rate": 0.01, "optimizer#weight_decay": 0.1}
    settings = keys_of(trained.cohort, tmp_path / "out", **changed, resume=True, num_workers=1)
    listed = (
        r"training in .*out:\n  max_iterations: 6, now 9\n  learning_rate: 0.001, now 0.01\n  optimizer#weight_decay: "
    )
    with pytest.raises(SystemExit, match=listed + r"3e-05, now 0.1\n.*accept these by --resume_changed true\.$"):
        run_here("training", "train.json", **settings)
    with pytest.raises(
        SystemExit, match=r"  unlabeled_batch_size: 2, now 3\n(  .*\n)*Resume with those of .* training\.$"
    ):
        run_here("training", "train.json", **{**settings, "unlabeled_batch_size": 3}, resume_changed=True)
    # what one of the two does not give has changed, too
    given = {"perturbation#distance": "cosine", "train#mixer#share": 0.3}
    listed = r"\n  perturbation#distance: not given, now 'cosine'\n(  .*\n)*  train#mixer#share: not given, now 0\.3\n"
    with pytest.raises(SystemExit, match=listed):
        run_here("training", "train.json", **settings, **given)
    assert torch.load(tmp_path / "out" / "resume.pt", weights_only=True)["engine"]["iteration"] == 6
    parser = run_here("training", "train.json", **settings, resume_changed=True)
    trainer = parser.get_parsed_content("train#trainer")
    assert trainer.state.iteration == 9
    assert torch.load(tmp_path / "out" / "resume.pt", weights_only=True)["lr_scheduler"]["total_iters"] == 9
    log = (tmp_path / "out" / "training.log").read_text()
    assert "after iteration 6" in log
    assert read_json(tmp_path / "out" / "resumed_config.json")["learning_rate"] == 0.01


def test_another_number_of_processes_is_refused(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.output_dir, tmp_path / "out")
    path = tmp_path / "out" / "resume.pt"
    state = torch.load(path, weights_only=True)
    assert state["engine"]["processes"] == 1
    torch.save({**state, "engine": {**state["engine"], "processes": 2}}, path)
    settings = keys_of(trained.cohort, tmp_path / "out", **TINY, resume=True)
    with pytest.raises(
        SystemExit, match=r"resume\.pt is of a training by 2 processes, this one has 1 and would .* Start 2"
    ):
        run_here("training", "train.json", **settings)


def test_other_data_are_not_resumed(trained: Trained, cohort: CohortFolder, tmp_path: Path) -> None:
    shutil.copytree(trained.output_dir, tmp_path / "out")
    cohort.datalist["unlabeled"].pop()
    cohort.save()
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    settings = keys_of(cohort, tmp_path / "out", **TINY, resume=True, resume_changed=True)
    with pytest.raises(SystemExit, match=r"  the data: digest \w{12}, now \w{12} \(cases, splits, labels or files"):
        run_here("training", "train.json", **settings)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == before


def test_a_training_ends_by_what_it_made_and_the_next_commands(trained: Trained) -> None:
    out, record = trained.output_dir, read_json(trained.output_dir / "run.json")
    lines = [line.split(" INFO ")[1] for line in trained.result.stdout.splitlines() if " INFO " in line][-5:]
    best = record["result"]["val_mean_dice"]
    made = rf"trained in \d+ (s|min): {out}/model.pt, best mean Dice on validation {best:.3f}, epoch [12]"
    assert lines[0].startswith("Epoch[2] Metrics -- codebook_perplexity")
    assert re.fullmatch(made, lines[1])
    assert lines[2] == f"to look at: {out}/progress.png"
    assert lines[3].endswith(f"vqseg evaluate --dataset_dir {trained.cohort.root} --output_dir {out}")
    assert lines[4].endswith(f"vqseg segment {trained.cohort.root}/images/case_5.nii.gz --output_dir {out}")
    assert [f"next: {command}" for command in record["next"][:2]] == lines[3:]


def test_the_count_of_codes_is_announced(trained: Trained) -> None:
    assert "counting the codes in use on 4 training images (final_codebook_cases)" in trained.result.stdout


def test_a_run_with_another_network_is_not_resumed_and_keeps_its_record(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.output_dir, tmp_path / "out")
    record = (tmp_path / "out" / "model.json").read_bytes()
    settings = keys_of(trained.cohort, tmp_path / "out", **{**TINY, "network_def#num_embeddings": 64}, resume=True)
    with pytest.raises(SystemExit, match="num_embeddings"):
        run_here("training", "train.json", **settings)
    assert (tmp_path / "out" / "model.json").read_bytes() == record


def test_a_checkpoint_is_not_silently_ignored_by_training(trained: Trained, tmp_path: Path) -> None:
    checkpoint = str(trained.output_dir / "model.pt")
    with pytest.raises(SystemExit, match="read by evaluating and inference only"):
        run_here("training", "train.json", **keys_of(trained.cohort, tmp_path / "out", **TINY, checkpoint=checkpoint))


def test_a_client_without_labels_trains_on_its_unlabelled_cases(cohort: CohortFolder, tmp_path: Path) -> None:
    cohort.datalist["unlabeled"] += [{"image": case["image"]} for case in cohort.datalist.pop("training")]
    cohort.datalist["training"] = []
    cohort.save()
    run_here("training", "train.json", **keys_of(cohort, tmp_path, **TINY, allow_no_labeled=True, lambda_dice=0.0))
    state = weights(tmp_path / "model.pt")
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


def test_a_training_that_ends_between_two_validations_validates_and_saves_at_its_end(
    trained: Trained, tmp_path: Path
) -> None:
    run_here("training", "train.json", **keys_of(trained.cohort, tmp_path, **TINY, val_interval=10))
    log = (tmp_path / "training.log").read_text()
    assert log.count("Epoch[2] Metrics -- val_mean_dice") == 1
    saved, teacher = weights(tmp_path / "model.pt"), torch.load(tmp_path / "resume.pt", weights_only=True)["teacher"]
    for key, value in saved.items():
        assert torch.equal(value, teacher[f"module.{key}"]), key


def test_training_elsewhere_gives_the_same_weights_and_writes_nothing_there(trained: Trained, tmp_path: Path) -> None:
    elsewhere, output_dir = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    shutil.copytree(trained.cohort.root, elsewhere / "data")
    places = {"bundle_root": ROOT, "dataset_dir": "data", "output_dir": "../out", **TINY}
    config = str(ROOT / "configs" / "train.json")
    result = run_command("run", "training", "--config_file", config, *as_arguments(places), cwd=elsewhere)
    assert result.returncode == 0, result.stdout + result.stderr
    expected, found = weights(trained.output_dir / "model.pt"), weights(output_dir / "model.pt")
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert [path.name for path in elsewhere.iterdir()] == ["data"]
    assert (
        read_json(output_dir / "run.json")["data_digest"] == read_json(trained.output_dir / "run.json")["data_digest"]
    )


def test_a_configuration_of_no_bundle_is_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "configs" / "train.json", tmp_path)
    result = command_here("run", "training", "--config_file", "train.json", cwd=tmp_path)
    assert result.returncode == 1
    assert (
        "which holds no configs/metadata.json. Run in the folder of the bundle, or give --bundle_root" in result.stderr
    )
    assert "Traceback" not in result.stdout + result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["train.json"]
