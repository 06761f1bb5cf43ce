"""Cohorts and runs that several tests of whole commands share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.bundle_runs import TINY, CohortFolder, Trained, as_arguments, command_here, write_cohort


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the checks of data remember stays out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture
def seeded() -> None:
    """Torch draws the same in every test."""
    torch.manual_seed(0)


@pytest.fixture
def cohort(tmp_path: Path) -> CohortFolder:
    """A cohort of this test's own."""
    return write_cohort(tmp_path / "cohort")


@pytest.fixture(scope="session")
def shared_cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortFolder:
    """A cohort that no test changes."""
    return write_cohort(tmp_path_factory.mktemp("shared") / "cohort")


@pytest.fixture(scope="session")
def trained(shared_cohort: CohortFolder) -> Trained:
    """A training by the words of a command line."""
    output_dir = shared_cohort.root.parent / "out"
    overrides = {"dataset_dir": shared_cohort.root, "output_dir": output_dir, **TINY}
    words = ["--amp", "false", "--foundation_weights", "None"]
    result = command_here("run", "training", "--config_file", "configs/train.json", *as_arguments(overrides), *words)
    assert result.returncode == 0, result.stdout + result.stderr
    return Trained(shared_cohort, output_dir, result)


@pytest.fixture(scope="session")
def evaluated(trained: Trained) -> Trained:
    """The same training's output folder after an evaluation of its test split, likewise."""
    overrides = {"dataset_dir": trained.cohort.root, "output_dir": trained.output_dir, "device": "cpu"}
    configs = "['configs/train.json','configs/evaluate.json']"
    result = command_here("run", "evaluating", "--config_file", configs, *as_arguments(overrides))
    assert result.returncode == 0, result.stdout + result.stderr
    return trained._replace(result=result)
