"""Trainings killed anywhere end, once resumed, with the weights of an uninterrupted one, bit for bit."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest
from support.bundle_runs import CONFIGS, TINY, CohortFolder
from support.processes import CONTEXT
from support.resumption import differences, run_killed, run_whole

# a busy machine may take its time
pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

STEPS = {**TINY, "max_iterations": 10, "iterations_per_epoch": 4, "amp": False}
STEPS_3D = {
    **STEPS,
    "patch_size": [32, 32, 4],
    "network_def#strides": [[2, 2, 1], [2, 2, 2]],
}
#: name to the overlay, the keys and the number of kills
SETTINGS: dict[str, tuple[str, dict[str, Any], int]] = {
    "2d": ("", STEPS, 5),
    "3d": ("train_3d.json", STEPS_3D, 5),
    "two workers": ("", {**STEPS, "num_workers": 2}, 5),
    "bfloat16": ("", {**STEPS, "amp": True}, 5),
    "supervised": ("supervised.json", STEPS, 1),
    "moving average": ("ema_codebook.yaml", {**STEPS, "codebook_maintenance#patience": 2}, 1),
    "fused codes": ("", {**STEPS, "network_def#code_level": 1, "network_def#reconstruction_channels": [4]}, 1),
    "bottleneck codes": ("bottleneck_codes.json", STEPS, 1),
    **{path.stem: (f"baselines/{path.name}", STEPS, 1) for path in sorted(CONFIGS.glob("baselines/*.json"))},
}
#: the last of each epoch's two saves and one of the weights at the end of the first
SAVES = [("bytes", 2), ("rename", 3), ("bytes", 1), ("rename", 4)]


def moments(name: str, count: int) -> list[tuple[str, int]]:
    """Random, one or two of five in a save."""
    draw = random.Random(name)
    steps = [(draw.choice(("step", "forward", "backward")), draw.randint(2, 10)) for _ in range(count)]
    return steps if count < 5 else [*draw.sample(SAVES, 2), ("epoch", draw.randint(1, 2)), *steps[3:]]


def in_process(target: Any, *arguments: Any) -> int:
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.parametrize("name", SETTINGS)
def test_killed_and_resumed_it_ends_as_the_uninterrupted_one(
    name: str, shared_cohort: CohortFolder, tmp_path: Path
) -> None:
    overlay, steps, count = SETTINGS[name]
    configs = f"train.json {overlay}".strip()
    own = (CONFIGS / overlay).read_text() if overlay and "3d" not in overlay else ""
    kept = {key: value for key, value in steps.items() if f'"{key}"' not in own}
    settings = {"dataset_dir": str(shared_cohort.root), **kept}
    assert in_process(run_whole, configs, {**settings, "output_dir": str(tmp_path / "whole")}) == 0
    for moment, number in moments(name, count):
        output_dir = tmp_path / f"{moment}{number}"
        place = {**settings, "output_dir": str(output_dir)}
        assert in_process(run_killed, configs, place, moment, number) == -signal.SIGKILL
        resumes = (output_dir / "resume.pt").is_file()
        assert resumes or (moment, number) in SAVES or number <= STEPS["iterations_per_epoch"]
        assert in_process(run_whole, configs, {**place, "resume": resumes}) == 0
        assert differences(output_dir, tmp_path / "whole") == [], (moment, number)
