"""Two trainings that start into one folder at the same moment: one runs, the other is refused and leaves no trace."""

from __future__ import annotations

import json
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from support.bundle_runs import TINY, CohortFolder
from support.processes import CONTEXT
from support.resumption import run_whole

pytestmark = pytest.mark.slow

TRIES = 20


def _start(together: Barrier, settings: dict[str, Any], last_words: Path) -> None:
    together.wait()
    run_whole("train.json", settings, last_words)


@pytest.mark.timeout(4 * 3600)
def test_one_runs_and_one_is_refused(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    for number in range(TRIES):
        folder, together = tmp_path / str(number), CONTEXT.Barrier(2)
        settings = {**TINY, "dataset_dir": str(shared_cohort.root), "output_dir": str(folder)}
        started = [
            CONTEXT.Process(target=_start, args=(together, {**settings, "seed": seed}, tmp_path / "words"))
            for seed in (1, 2)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
        codes = [process.exitcode for process in started]
        assert sorted(codes) == [0, 1]
        assert " is at work in it. Wait until" in (tmp_path / "words").read_text()
        (tmp_path / "words").unlink()
        record = json.loads((folder / "config.json").read_text())
        assert record["seed"] == 1 + codes.index(0)
        assert not list(folder.glob("previous-*"))
        assert (folder / "model.pt").is_file()
