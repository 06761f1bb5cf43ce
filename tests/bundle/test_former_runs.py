"""Runs of earlier versions: their configurations still train, go on, evaluate, and become bundles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from support.bundle_runs import CONFIGS, FORMER_CONFIGS, TINY, CohortFolder, run_here

from vqseg_bundle.commands import bundle as make_bundle

VERSIONS = sorted(FORMER_CONFIGS)
#: since 0.9 the views follow from the seed and the number of the draw: the same for trainings that are compared
SEEDED = {
    f"train#{loader}#{part}": ConfigParser.load_config_file(CONFIGS / "train.json")["train"][loader][part]
    for loader in ("dataloader", "unlabeled_dataloader")
    for part in ("dataset", "sampler")
}
#: what was the default, apart from confidence_threshold 0
THEN = ("train.json", "bottleneck_codes.json")


def keys(cohort: CohortFolder, output_dir: Path, **more: Any) -> dict[str, Any]:
    return {"dataset_dir": str(cohort.root), "output_dir": str(output_dir), "device": "cpu", **more}


def state(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)


@pytest.fixture(scope="module", params=VERSIONS)
def former(
    request: pytest.FixtureRequest, shared_cohort: CohortFolder, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a training by a configuration of then."""
    folder = tmp_path_factory.mktemp(request.param)
    run_here("training", FORMER_CONFIGS[request.param], **keys(shared_cohort, folder, **TINY, **SEEDED))
    record = json.loads((folder / "model.json").read_text())
    assert record["network"]["quantizer"]["commitment_cost"] == 0.25
    run = json.loads((folder / "run.json").read_text())
    run["versions"]["vqseg_bundle"] = f"{request.param}.0"
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_the_newer_one_gives_the_same_weights_as_this_version(
    former: Path, shared_cohort: CohortFolder, tmp_path: Path
) -> None:
    if "0.7" not in former.name:
        pytest.skip("0.6 took volumes as they are stored")
    run_here("training", *THEN, **keys(shared_cohort, tmp_path, **TINY, confidence_threshold=0.0))
    torch.testing.assert_close(state(former), state(tmp_path), rtol=0, atol=0)


def test_its_training_goes_on_by_either_configuration(
    former: Path, shared_cohort: CohortFolder, tmp_path: Path
) -> None:
    shutil.copytree(former, tmp_path / "out")
    # this version's has components of another kind
    accepted = {"resume_changed": True, "confidence_threshold": 0.0}
    for configs, more in (([former / "config.json"], {}), (THEN, accepted)):
        run_here("training", *configs, **keys(shared_cohort, tmp_path / "out", **TINY, resume=True, **more))
        torch.testing.assert_close(state(tmp_path / "out"), state(former), rtol=0, atol=0)
    assert (tmp_path / "out" / "training.log").read_text().count("after iteration 6") == 2


def test_the_bundle_made_of_it_evaluates_alike(former: Path, shared_cohort: CohortFolder, tmp_path: Path) -> None:
    shutil.copytree(former, tmp_path / "run")
    run_here("evaluating", "train.json", "evaluate.json", **keys(shared_cohort, tmp_path / "run"))
    expected = (tmp_path / "run" / "metrics.csv").read_text()
    made = tmp_path / "made"
    make_bundle.main(["--run", str(tmp_path / "run"), "--output", str(made)])
    configs = [made / "configs" / name for name in ("train.json", "evaluate.json")]
    run_here("evaluating", *configs, **keys(shared_cohort, tmp_path / "out", bundle_root=str(made)))
    assert (tmp_path / "out" / "metrics.csv").read_text() == expected


def test_a_supervised_training_draws_the_same_views(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    settings = {**TINY, "unlabeled_data": []}
    run_here("training", FORMER_CONFIGS["0.7"], **keys(shared_cohort, tmp_path / "former", **settings, **SEEDED))
    run_here("training", *THEN, **keys(shared_cohort, tmp_path / "now", **settings))
    torch.testing.assert_close(state(tmp_path / "now"), state(tmp_path / "former"), rtol=0, atol=0)
