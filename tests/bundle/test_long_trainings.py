"""A training of 2,000 steps needs no more memory and no more open files at its end than in its middle."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from support.bundle_runs import TINY, CohortFolder, run_here
from support.processes import CONTEXT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

STEPS = {**TINY, "max_iterations": 2000, "iterations_per_epoch": 100}
LIBC = ctypes.CDLL(None) if os.name == "posix" else None
#: MiB in the second half; what is free in the allocator, and differs with the schedules, is given back before
MOST_GROWTH = 1


def _measured(settings: dict[str, Any], target: Path) -> None:
    """Train, and note memory in MiB and open files after each epoch's save."""

    def expose(parser: ConfigParser) -> None:
        parser.get_parsed_content("train#trainer").add_event_handler(Events.EPOCH_COMPLETED, note)

    def note(engine: Engine) -> None:
        gc.collect()
        LIBC.malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        with target.open("a") as file:
            file.write(f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.1f} {len(os.listdir('/proc/self/fd'))}\n")  # noqa: PTH208

    run_here("training", "train.json", before=expose, **settings)


@pytest.mark.skipif(not hasattr(LIBC, "malloc_trim"), reason="measured with the GNU C library")
def test_memory_and_open_files_stay(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    settings = {**STEPS, "dataset_dir": str(shared_cohort.root), "output_dir": str(tmp_path / "out")}
    process = CONTEXT.Process(target=_measured, args=(settings, tmp_path / "measured"))
    process.start()
    process.join()
    assert process.exitcode == 0
    memory, files = zip(
        *(map(float, line.split()) for line in (tmp_path / "measured").read_text().splitlines()), strict=True
    )
    assert len(memory) == 20
    assert max(memory[10:]) - memory[9] <= MOST_GROWTH, memory
    assert max(files) == files[0], files
