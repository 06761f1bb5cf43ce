"""A disk that fills up at any point of a training costs no checkpoint: with space it ends as if nothing had been."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.bundle_runs import TINY, CohortFolder
from support.processes import CONTEXT
from support.resumption import differences, run_whole

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

STEPS = {**TINY, "max_iterations": 12, "iterations_per_epoch": 2}
#: share of what the whole training writes
SIZES = (0.1, 0.4, 0.6, 0.8, 0.95)


@contextmanager
def _disk(folder: Path, size: int) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _train(settings: dict[str, Any], last_words: Path | None = None) -> int | None:
    process = CONTEXT.Process(target=run_whole, args=("train.json", settings, last_words))
    process.start()
    process.join()
    return process.exitcode


def test_a_full_disk_costs_no_checkpoint(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    settings = {**STEPS, "dataset_dir": str(shared_cohort.root)}
    whole = tmp_path / "whole"
    assert _train({**settings, "output_dir": str(whole)}) == 0
    written = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    resumed = 0
    for share in SIZES:
        folder = tmp_path / str(share)
        with _disk(folder, int(share * written)):
            place = {**settings, "output_dir": str(folder)}
            assert _train(place, tmp_path / "words") == 1, share
            assert "No space is left" in (tmp_path / "words").read_text(), share
            subprocess.run(["mount", "-o", f"remount,size={8 * written}", str(folder)], check=True)
            resumes = (folder / "resume.pt").is_file()
            resumed += resumes
            assert _train({**place, "resume": resumes}) == 0
            assert differences(folder, whole) == [], share
    assert resumed >= len(SIZES) // 2
