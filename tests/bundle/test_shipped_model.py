"""models/model.pt, which comes with the bundle: what it is, and that it does what the metadata says of it."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path

import pytest
from support.bundle_runs import CONFIGS, ROOT, Trained, refused, run_here
from support.deployment_parts import pass_zoo_check

from vqseg_bundle.commands.pack import pack_bundle
from vqseg_bundle.data import write_demo_cohort

METADATA = json.loads((CONFIGS / "metadata.json").read_text())
MODELS = ROOT / "models"
#: the Model Zoo's, for one file
LARGEST_FILE = 25e6


def test_it_fits_the_zoos_size_rule_and_the_metadata() -> None:
    assert (MODELS / "model.pt").stat().st_size < LARGEST_FILE
    record = json.loads((MODELS / "model.json").read_text())
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
    assert (unpacked / "models" / "model.pt").read_bytes() == (MODELS / "model.pt").read_bytes()
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
        r"model\.pt: these weights know the synthetic volumes of the demo alone \(organ, core, vessel\), and .* is "
    )
    places = {"dataset_dir": str(trained.cohort.root / "images"), "device": "cpu"}
    refused(tmp_path / "out", f"{message}none of them. Name your own: --checkpoint", "run", "inference.json", **places)
    assert not (tmp_path / "out").exists()
    run_here("run", "inference.json", **places, output_dir=str(tmp_path / "out"), checkpoint=str(MODELS / "model.pt"))
    assert (tmp_path / "out" / "predictions" / "case_5_pred.nii.gz").is_file()
    demo = write_demo_cohort(tmp_path / "demo") / "images"
    (tmp_path / "one").mkdir()
    volume = sorted(demo.iterdir())[0]
    run_here("run", "inference.json", dataset_dir=str(volume), output_dir=str(tmp_path / "one"), device="cpu")
    assert len(list((tmp_path / "one" / "predictions").glob("*.nii.gz"))) == 1
