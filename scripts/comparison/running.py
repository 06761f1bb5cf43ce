"""From a plan to finished runs: their state, and running what is pending."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from scripts.benchmark.machine import describe_machine
from scripts.comparison.beginnings import note_beginning, note_continuation, seconds_before
from scripts.comparison.bundle_runs import StagesOf, trains_on_unlabeled
from scripts.comparison.datasets import OpenedDataset
from scripts.comparison.execution import Outcome, Workers, explain_failure
from scripts.comparison.plan import ComparisonPlan, Run
from scripts.comparison.records import (
    FINISHED,
    INTERRUPTED,
    RunState,
    inputs_digest,
    put_run_aside,
    run_settings,
    run_state,
    save_record,
)

__all__ = ["Failure", "Machine", "PlannedRun", "default_machine", "execute", "survey"]


class Machine(NamedTuple):
    """The resources of a comparison.

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
    """A run of the plan and its state.

    Attributes:
        run: the run.
        settings: everything that determines it except its data.
        inputs: digest of its input; None if its data are not available.
        state: its state.
    """

    run: Run
    settings: Mapping[str, Any]
    inputs: str | None
    state: RunState

    @property
    def seconds(self) -> float | None:
        """Its duration, if it is finished."""
        return sum((self.state.record or {})["seconds"].values()) if self.state.state == FINISHED else None


class Failure(NamedTuple):
    """A run that failed.

    Attributes:
        run: the run.
        reason: the command, and the last lines of its log.
    """

    run: Run
    reason: str


def survey(plan: ComparisonPlan, output: Path, opened: Mapping[str, OpenedDataset]) -> list[PlannedRun]:
    """The state of every run of a plan.

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
    opened: Mapping[str, OpenedDataset],
    output: Path,
    machine: Machine,
    stages_of: StagesOf,
) -> list[Failure]:
    """Make pending runs in parallel, and show the remaining time; a failed run does not stop the others.

    Returns:
        the runs that failed.
    """
    failures: list[Failure] = []
    begun = time.monotonic()
    with Workers(machine.jobs, machine.threads, machine.gpus) as workers:
        futures: dict[Future[Outcome], PlannedRun] = {}
        for each in pending:
            folder = output / each.run.folder
            goes_on = each.state.state == INTERRUPTED
            stages = stages_of(each.run, opened[each.run.dataset.name], folder.resolve(), goes_on)
            futures[workers.submit(stages, folder, partial(_begin, each, output))] = each
        for future in tqdm(as_completed(futures), "runs", len(futures), unit="run", smoothing=0, disable=None):
            run, outcome = futures[future].run, future.result()
            failure = _conclude(futures[future], outcome, opened, output, machine)
            failures += [failure] if failure else []
            said = f"FAILED, {failure.reason}" if failure else f"finished in {_show(sum(outcome.seconds.values()))}"
            done = sum(each.done() for each in futures)
            left = (len(futures) - done) * (time.monotonic() - begun) / done
            more = f"; {len(futures) - done} left, about {_show(left)}" if done < len(futures) else ""
            tqdm.write(f"{run}: {said}{more}")
    return failures


def _begin(planned: PlannedRun, output: Path) -> None:
    folder = output / planned.run.folder
    if planned.state.state == INTERRUPTED:
        note_continuation(folder)
    else:
        put_run_aside(output, planned.run)
        note_beginning(folder, planned.settings, planned.inputs)


def _show(seconds: float) -> str:
    return tqdm.format_interval(seconds)


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
        "seconds": {**outcome.seconds, "training": outcome.seconds["training"] + seconds_before(folder)},
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
    """The commit recorded by the bundle; None outside a checkout."""
    return json.loads(path.read_text(encoding="utf-8"))["git_commit"] if path.is_file() else None


def default_machine(jobs: int | None, threads: int) -> Machine:
    """One run per GPU if there are any, otherwise one per core.

    Args:
        jobs: parallel runs, or None for the default.
        threads: threads of each.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    gpus = tuple(visible.split(",")[:count]) if visible else tuple(str(index) for index in range(count))
    return Machine(jobs or len(gpus) or max(1, len(os.sched_getaffinity(0)) // threads), threads, gpus)
