"""Plans, stand-ins for trainings and made-up evaluations, for the tests of the comparison."""

from __future__ import annotations

import random
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scripts.comparison import __main__ as compare
from scripts.comparison.bundle_runs import Stage
from scripts.comparison.datasets import OpenedDataset
from scripts.comparison.plan import Run
from vqseg_bundle.handlers.case_metrics import write_report
from vqseg_bundle.handlers.metrics import ClassMetrics

from .report_parts import class_metrics

__all__ = [
    "LABELS",
    "TINY_NETWORK",
    "Comparison",
    "evaluation",
    "is_alive",
    "stand_in",
    "wait_until",
    "write_evaluation",
    "write_plan",
]

LABELS = {0: "background", 1: "shell", 2: "core"}
TINY_NETWORK = {
    "device": "cpu",
    "patch_size": [32, 32],
    "network_def#channels": [4, 8, 16],
    "network_def#strides": [2, 2],
    "network_def#reconstruction_channels": [4, 8],
}


class Comparison:
    """A plan on a small cohort, with its folders."""

    def __init__(self, root: Path, cohort: Path) -> None:
        self.cohort = cohort
        self.notes = root / "notes"
        self.output = root / "out"
        self.plan = root / "plan.yaml"
        self.notes.mkdir(parents=True)
        self.write()

    def write(self, **changes: Any) -> None:
        """Write the plan, with changes."""
        write_plan(self.plan, self.cohort, **changes)

    @property
    def arguments(self) -> list[str]:
        """Of the command line."""
        return ["--plan", str(self.plan), "--output", str(self.output), "--jobs", "2"]

    def run(self, *more: str, before: Callable[[Run], str] = lambda run: "true") -> None:
        """Run the command with stand-ins."""
        compare.main([*self.arguments, *more], stand_in(self.notes, before))

    def begun(self) -> dict[str, int]:
        """How often each run began."""
        lines = (self.notes / "begun").read_text().splitlines() if (self.notes / "begun").exists() else []
        return {line: lines.count(line) for line in lines}

    def reports(self) -> dict[str, str]:
        """What the report says, but for the times."""
        texts = {name: (self.output / name).read_text() for name in ("report.md", "report.tex", "cases.csv")}
        # minutes are the last cell of a row
        return {name: re.sub(r"[\d.]+( \||\s\\\\)$", r"\1", text, flags=re.MULTILINE) for name, text in texts.items()}


def write_plan(path: Path, cohort: Path, **changes: Any) -> Path:
    """A plan of two methods and two seeds on a cohort; a change to None takes the key out."""
    content: dict[str, Any] = {
        "name": "try out",
        "seeds": [0, 1],
        "split": "test",
        "reference": "supervised",
        "overrides": TINY_NETWORK,
        "datasets": {"nested": {"dataset_dir": str(cohort)}},
        "methods": {"supervised": {"configs": ["supervised.json"]}, "VQ-Seg": {}},
        **changes,
    }
    path.write_text(
        yaml.safe_dump({key: value for key, value in content.items() if value is not None}, sort_keys=False)
    )
    return path


def evaluation(seed: str) -> dict[str, list[ClassMetrics]]:
    """Made-up metrics of three cases, the same for the same seed, with every status that there is."""
    rng = random.Random(seed)

    def found(index: int) -> ClassMetrics:
        return class_metrics(index, "ok", rng.random(), rng.random(), 9 * rng.random(), 3 * rng.random())

    return {
        "a": [found(1), found(2)],
        "b": [found(1), class_metrics(2, "absent")],
        "c": [found(1), class_metrics(2, rng.choice(["missed", "hallucinated"]), 0.0, 0.0, 50.0, 50.0)],
    }


def write_evaluation(
    folder: Path, cases: Mapping[str, Sequence[ClassMetrics]], patients: Mapping[str, str] | None = None
) -> None:
    """What an evaluation writes; each case is a patient of its own if nothing is said."""
    write_report(folder, cases, patients or {case: case for case in cases}, LABELS)


def stand_in(notes: Path, before: Callable[[Run], str] = lambda run: "true") -> Callable[..., list[Stage]]:
    """Commands of no length: the training notes that it began, the evaluation puts made-up metrics in place.

    Args:
        notes: folder; ``begun`` in it gets a line a training, ``made/`` the metrics.
        before: a shell command of the training, by run.
    """

    def stages(run: Run, dataset: OpenedDataset, output_dir: Path, resume: bool) -> list[Stage]:
        made = notes / "made" / run.folder
        write_evaluation(made, evaluation(str(run)))
        going_on = " goes on" if resume else ""
        training = f"echo {shlex.quote(f'{run}{going_on}')} >> {shlex.quote(str(notes / 'begun'))} && {before(run)}"
        files = [str(made / name) for name in ("metrics.csv", "summary.json")]
        return [
            Stage("training", ["sh", "-c", training]),
            Stage("evaluating", ["cp", *files, str(output_dir)]),
        ]

    return stages


def wait_until(condition: Callable[[], Any], driver: subprocess.Popen | None = None) -> None:
    """Wait for a condition, five minutes at most, while a process lives."""
    deadline = time.monotonic() + 300
    while not condition():
        assert driver is None or driver.poll() is None, "the comparison ended by itself"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
