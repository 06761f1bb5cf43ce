"""From a plan to finished runs: what is there, what is to be run, and running it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from scripts.benchmark.machine import describe_machine
from scripts.comparison.commands import StagesOf
from scripts.comparison.datasets import OpenedDataset
from scripts.comparison.execution import Outcome, Workers, explain_failure
from scripts.comparison.plan import ComparisonPlan, Run
from scripts.comparison.records import (
    FINISHED,
    RunState,
    inputs_digest,
    put_run_aside,
    run_settings,
    run_state,
    save_record,
)
from scripts.comparison.settings import trains_on_unlabeled
from scripts.comparison.time_left import TimeLeft, show_duration, training_share

__all__ = ["Failure", "Machine", "PlannedRun", "default_machine", "execute", "survey"]

_TICK_SECONDS = 1.0


class Machine(NamedTuple):
    """What a comparison may use.

    Attributes:
        jobs: runs side by side.
        threads: threads of each.
        gpus: names as in ``CUDA_VISIBLE_DEVICES``; empty for none.
    """

    jobs: int
    threads: int
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """A run of the plan and where it stands.

    Attributes:
        run: the run.
        settings: all that determines it but its data.
        inputs: digest of what it reads; None where its data are not at hand.
        state: where it stands.
    """

    run: Run
    settings: Mapping[str, Any]
    inputs: str | None
    state: RunState

    @property
    def seconds(self) -> float | None:
        """How long it took, if it is finished."""
        return sum((self.state.record or {})["seconds"].values()) if self.state.state == FINISHED else None


class Failure(NamedTuple):
    """A run that failed.

    Attributes:
        run: the run.
        reason: which command, and the last lines of its log.
    """

    run: Run
    reason: str


def survey(plan: ComparisonPlan, output: Path, opened: Mapping[str, OpenedDataset]) -> list[PlannedRun]:
    """Where every run of a plan stands.

    Args:
        plan: the plan.
        output: the comparison's folder.
        opened: the datasets that are at hand, by name.

    Raises:
        ValueError: a record cannot be read.
    """
    planned = []
    for run in plan.runs():
        settings, dataset = run_settings(run), opened.get(run.dataset.name)
        inputs = None if dataset is None else inputs_digest(run, dataset)
        planned.append(PlannedRun(run, settings, inputs, run_state(output / run.folder, settings, inputs)))
    return planned


def execute(
    pending: Sequence[PlannedRun],
    finished: Iterable[PlannedRun],
    opened: Mapping[str, OpenedDataset],
    output: Path,
    machine: Machine,
    stages_of: StagesOf,
) -> list[Failure]:
    """Run what is pending, side by side, with a bar that tells the time left; a failed run does not stop the others.

    Args:
        pending: what to run, in this order.
        finished: earlier runs, whose times tell what to expect.
        opened: the datasets, by name.
        output: the comparison's folder.
        machine: what may be used.
        stages_of: makes the commands of a run.

    Returns:
        the runs that failed.
    """
    failures: list[Failure] = []
    bar = tqdm(
        total=len(pending),
        bar_format="{desc}{n_fmt}/{total_fmt} runs |{bar}| {elapsed} gone{postfix}",
        disable=not sys.stderr.isatty(),
    )
    with closing(bar), Workers(machine.jobs, machine.threads, machine.gpus) as workers:
        watch = _Watch(output, machine, bar)
        for each in finished:
            watch.time_left.learn(each.run, each.seconds or 0.0)
        futures: dict[Future[Outcome], PlannedRun] = {}
        for each in pending:
            folder = output / each.run.folder
            stages = stages_of(each.run, opened[each.run.dataset.name], folder.resolve())
            futures[workers.submit(stages, folder, partial(put_run_aside, output, each.run))] = each
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=_TICK_SECONDS, return_when=FIRST_COMPLETED)
            watch.follow([(futures[future].run, future.running()) for future in waiting])
            for future in sorted(done, key=lambda future: str(futures[future].run)):
                failure = _conclude(futures[future], future.result(), opened, output, machine)
                watch.tell(futures[future].run, future.result(), failure)
                failures += [failure] if failure else []
            watch.show()
    return failures


def _conclude(
    planned: PlannedRun, outcome: Outcome, opened: Mapping[str, OpenedDataset], output: Path, machine: Machine
) -> Failure | None:
    run, folder = planned.run, output / planned.run.folder
    if outcome.failed:
        log = folder / f"console_{outcome.failed}.log"
        return Failure(run, f"{outcome.failed} failed, the end of {log}:\n{explain_failure(log)}")
    dataset = opened[run.dataset.name]
    record = {
        "settings": planned.settings,
        "inputs": planned.inputs,
        "dataset": run.dataset.name,
        "method": run.method.name,
        "seconds": outcome.seconds,
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": describe_machine("cuda" if machine.gpus else "cpu", machine.threads),
        "labeled": dataset.labeled,
        "unlabeled": dataset.unlabeled if trains_on_unlabeled(run) else 0,
        "commit": _commit(folder / "run.json"),
    }
    try:
        save_record(folder, record)
    except ValueError as error:
        return Failure(run, str(error))
    return None


def _commit(path: Path) -> str | None:
    """The commit that the bundle noted; None where it runs outside of a checkout."""
    return json.loads(path.read_text(encoding="utf-8"))["git_commit"] if path.is_file() else None


class _Watch:
    """Tells what happens: a line for each run that ends, and the time left."""

    def __init__(self, output: Path, machine: Machine, bar: tqdm) -> None:
        self.time_left = TimeLeft(lambda run: training_share(output / run.folder / "console_training.log"))
        self._jobs = machine.jobs
        self._bar = bar
        self._begun: dict[str, float] = {}
        self._working: list[Run] = []
        self._waiting: list[Run] = []

    def follow(self, unfinished: Sequence[tuple[Run, bool]]) -> None:
        """Take in which runs are left, and whether they have begun."""
        self._working = [run for run, begun in unfinished if begun]
        self._waiting = [run for run, begun in unfinished if not begun]
        for run in self._working:
            self._begun.setdefault(str(run), time.monotonic())

    def tell(self, run: Run, outcome: Outcome, failure: Failure | None) -> None:
        seconds = sum(outcome.seconds.values())
        if failure is None:
            self.time_left.learn(run, seconds)
        said = f"FAILED, {failure.reason}" if failure else f"finished in {show_duration(seconds)}"
        count = len(self._working) + len(self._waiting)
        tqdm.write(f"{run}: {said}{f'; {count} left, about {self._left()}' if count else ''}")
        self._bar.update()

    def show(self) -> None:
        self._bar.set_postfix_str(f"about {self._left()} left; {len(self._working)} at work")

    def _left(self) -> str:
        now = time.monotonic()
        working = [(run, now - self._begun[str(run)]) for run in self._working]
        return show_duration(self.time_left.seconds(self._waiting, working, self._jobs))


def default_machine(jobs: int | None, threads: int) -> Machine:
    """One run a GPU where there are some, else one a core.

    Args:
        jobs: runs side by side, or None for the default.
        threads: threads of each.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    gpus = tuple(visible.split(",")[:count]) if visible else tuple(str(index) for index in range(count))
    return Machine(jobs or len(gpus) or max(1, len(os.sched_getaffinity(0)) // threads), threads, gpus)
