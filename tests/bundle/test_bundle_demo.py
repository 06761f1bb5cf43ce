"""The default command on the embedded demo cohort, in a checkout of its own, and the weights that come with it."""

from __future__ import annotations

import csv
import json
import logging
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.bundle_runs import CONFIGS, ROOT, Result, Trained, refused, run_command, run_here
from support.deployment_parts import pass_zoo_check

from vqseg_bundle.bundle.records.run_record import git_commit
from vqseg_bundle.commands.pack import pack_bundle
from vqseg_bundle.data import write_demo_cohort

FILES = ("configs", "vqseg_bundle", "metadata.json", ".gitignore", "pyproject.toml", "LICENSE")
MODELS = ("README.md", "model.json", "model.pt")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fresh clone holds, committed."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    root = tmp_path_factory.mktemp("checkout")
    for name in FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    (root / "models").mkdir()
    for name in MODELS:
        shutil.copy(ROOT / "models" / name, root / "models")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "all")
    return root


@pytest.fixture(scope="module")
def trained_there(checkout: Path) -> Result:
    steps = ["--max_iterations", "4", "--iterations_per_epoch", "4", "--device", "cpu"]
    result = run_command("run", "training", "--config_file", "configs/train.json", *steps, cwd=checkout)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_without_data_the_demo_cohort_is_written_and_trained_on(checkout: Path, trained_there: Result) -> None:
    assert "cohort demo: 2 labelled, 14 unlabelled, 4 validation, 4 test cases" in trained_there.stdout
    assert len(list((checkout / "data").rglob("images/*.nii.gz"))) == 24
    assert "Epoch[1] Metrics -- val_mean_dice" in trained_there.stdout


def test_without_output_dir_everything_goes_into_a_folder_that_git_ignores(
    checkout: Path, trained_there: Result
) -> None:
    run = checkout / "runs" / "train"
    assert {path.name for path in run.iterdir()} >= {"model.pt", "model.json", "resume.pt", "training.log"}
    assert list((run / "tensorboard").iterdir())
    assert {path.name for path in checkout.iterdir()} == {*FILES, ".git", "models", "runs", "data"}
    assert git(checkout, "status", "--porcelain") == ""
    assert {path.name for path in (checkout / "models").iterdir()} == set(MODELS)


def test_without_output_dir_an_evaluation_is_of_that_training_and_an_inference_says_that_it_is_not(
    checkout: Path, trained_there: Result
) -> None:
    places = {"bundle_root": str(checkout), "dataset_dir": str(checkout / "data" / "demo_cohort" / "demo_cohort_v1")}
    parser = run_here("evaluating", "train.json", "evaluate.json", **places, device="cpu")
    run = checkout / "runs" / "train"
    assert parser.get_parsed_content("model_record")["checkpoint"] == str(run / "model.pt")
    assert (run / "summary.json").is_file()
    image = next((Path(places["dataset_dir"]) / "images").iterdir())
    parser = run_here("run", "inference.json", **{**places, "dataset_dir": str(image)}, device="cpu")
    assert parser.get_parsed_content("model_record")["checkpoint"] == str(checkout / "models" / "model.pt")
    assert len(list((checkout / "eval" / "predictions").glob("*.nii.gz"))) == 1
    git(checkout, "diff", "--exit-code")


def test_the_record_names_the_commit_whatever_the_weights_are(checkout: Path, trained_there: Result) -> None:
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert json.loads((checkout / "runs" / "train" / "run.json").read_text())["git_commit"] == commit
    assert git_commit(checkout) == commit
    (checkout / "LICENSE").write_text("other")
    assert git_commit(checkout) == f"{commit}-dirty"
    git(checkout, "checkout", "--quiet", "LICENSE")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_demo_segments_and_the_labels_alone_do_not_suffice(tmp_path: Path) -> None:
    scores = {}
    for name, config in (
        ("vqseg", "configs/train.json"),
        ("supervised", "['configs/train.json','configs/supervised.json']"),
    ):
        places = ["--output_dir", str(tmp_path / name), "--device", "cpu"]
        result = run_command("run", "training", "--config_file", config, *places, timeout=3000)
        assert result.returncode == 0, result.stdout + result.stderr
        scores[name] = [float(score) for score in re.findall(r"Metrics -- val_mean_dice: ([\d.]+)", result.stdout)]
    assert len(scores["vqseg"]) == len(scores["supervised"]) == 10
    assert scores["vqseg"][-1] > 0.80
    assert scores["vqseg"][-1] > scores["vqseg"][0]
    assert scores["supervised"][-1] < scores["vqseg"][-1] - 0.05
    assert _evaluated_dice(tmp_path / "vqseg") > 0.80


def _evaluated_dice(output_dir: Path) -> float:
    configs = "['configs/train.json','configs/evaluate.json']"
    places = ["--output_dir", str(output_dir), "--device", "cpu", "--evaluation_split", "validation"]
    result = run_command("run", "evaluating", "--config_file", configs, *places, timeout=1000)
    assert result.returncode == 0, result.stdout + result.stderr
    with (output_dir / "metrics.csv").open(newline="") as file:
        return float(np.mean([float(row["dice"]) for row in csv.DictReader(file)]))


METADATA = json.loads((CONFIGS / "metadata.json").read_text())
SHIPPED = ROOT / "models"
#: the Model Zoo's, for one file
LARGEST_FILE = 25e6


def test_it_fits_the_zoos_size_rule_and_the_metadata() -> None:
    assert (SHIPPED / "model.pt").stat().st_size < LARGEST_FILE
    record = json.loads((SHIPPED / "model.json").read_text())
    assert record["labels"] == METADATA["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert "synthetic" in record["info"]["warning"]
    assert "must not be used on patients" in METADATA["intended_use"]


def test_out_of_the_box_it_has_the_figures_of_the_metadata(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    places = {"dataset_dir": str(write_demo_cohort(tmp_path / "demo")), "output_dir": str(tmp_path / "out")}
    with caplog.at_level(logging.WARNING):
        run_here("evaluating", "train.json", "evaluate.json", **places, device="cpu")
    assert "model.pt: trained on synthetic volumes" in caplog.text
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    stated = METADATA["eval_metrics"]["test"]
    assert summary["num_cases"] == stated["cases"]
    for name in ("dice", "jaccard"):
        assert summary["overall"][name]["mean"] == pytest.approx(stated[name], abs=2e-3)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This bundle as the zoo packs it."""
    folder = tmp_path_factory.mktemp("zoo")
    with zipfile.ZipFile(pack_bundle(ROOT, folder)) as archive:
        archive.extractall(folder)
    return folder / ROOT.resolve().name


def test_the_packed_bundle_holds_it_and_nothing_of_this_checkout(unpacked: Path) -> None:
    assert (unpacked / "models" / "model.pt").read_bytes() == (SHIPPED / "model.pt").read_bytes()
    assert not {path.name for path in unpacked.iterdir()} & {".git", ".venv", "data", "eval", "runs", "tests"}
    assert max(path.stat().st_size for path in unpacked.rglob("*")) < LARGEST_FILE


@pytest.mark.parametrize("mode", ["min", "regular", "full"])
def test_the_model_zoos_own_check_passes(unpacked: Path, mode: str) -> None:
    pass_zoo_check(unpacked, mode)


def test_its_warning_does_not_stick_to_other_weights(trained: Trained) -> None:
    info = json.loads((trained.output_dir / "model.json").read_text())["info"]
    assert (info["cohort"], set(info)) == ("nested", {"cohort", "training_volumes"})


def test_the_demos_weights_segment_the_demo_alone_unless_they_are_named(tmp_path: Path, trained: Trained) -> None:
    message = (
        r"model\.pt: these weights, as output_dir has no model\.pt, know only the synthetic volumes of the demo "
        r"\(organ, core, vessel\), and .* is none of them\. Name your own: --output_dir OUT, or --checkpoint"
    )
    places = {"dataset_dir": str(trained.cohort.root / "images"), "device": "cpu"}
    refused(tmp_path / "out", message, "run", "inference.json", **places)
    assert not (tmp_path / "out").exists()
    run_here("run", "inference.json", **places, output_dir=str(tmp_path / "out"), checkpoint=str(SHIPPED / "model.pt"))
    assert (tmp_path / "out" / "predictions" / "case_5_pred.nii.gz").is_file()
    demo = write_demo_cohort(tmp_path / "demo") / "images"
    (tmp_path / "one").mkdir()
    volume = sorted(demo.iterdir())[0]
    run_here("run", "inference.json", dataset_dir=str(volume), output_dir=str(tmp_path / "one"), device="cpu")
    assert len(list((tmp_path / "one" / "predictions").glob("*.nii.gz"))) == 1
