"""Run commands in parallel, each in its own processes."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from scripts.comparison.bundle_runs import Stage
from scripts.comparison.plan_file import ROOT

__all__ = ["Outcome", "Workers", "explain_failure", "tail"]

_TIED = Path(__file__).with_name("tied_process.py")
_GRACE_SECONDS = 10.0
_ERROR = re.compile(r"[\w.]*(Error|Exception): ")


class Outcome(NamedTuple):
    """Outcome of a run's commands.

    Attributes:
        seconds: time of each successful stage, by name.
        failed: name of the failed stage; empty if none.
    """

    seconds: dict[str, float]
    failed: str


class Workers:
    """Slots that run one command each, on one or few cores.

    Slots are assigned to GPUs in turn. Leaving the ``with`` block ends commands that still run.

    Args:
        jobs: number of slots.
        threads: threads of each command's numeric libraries.
        gpus: names of the GPUs as in ``CUDA_VISIBLE_DEVICES``; empty for none.
    """

    def __init__(self, jobs: int, threads: int, gpus: Sequence[str] = ()) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(jobs)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._gpus: queue.Queue[str | None] = queue.Queue()
        for slot in range(jobs):
            self._gpus.put(gpus[slot % len(gpus)] if gpus else None)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._end_processes()
        self._pool.shutdown(cancel_futures=True)

    def submit(self, stages: Sequence[Stage], folder: Path, prepare: Callable[[], object]) -> Future[Outcome]:
        """Run stages one after the other, as soon as a slot is free, until one fails.

        Args:
            stages: the stages.
            folder: folder of the logs, ``console_<stage>.log``.
            prepare: called before the first stage; creates the folder.
        """
        return self._pool.submit(self._run, stages, folder, prepare)

    def _run(self, stages: Sequence[Stage], folder: Path, prepare: Callable[[], object]) -> Outcome:
        seconds: dict[str, float] = {}
        with self._gpu() as gpu:
            if self._stopped.is_set():
                return Outcome(seconds, stages[0].name)
            prepare()
            for stage in stages:
                start = time.monotonic()
                if self._call(stage, folder, gpu) != 0:
                    return Outcome(seconds, stage.name)
                seconds[stage.name] = time.monotonic() - start
        return Outcome(seconds, "")

    @contextmanager
    def _gpu(self) -> Iterator[str | None]:
        gpu = self._gpus.get()
        try:
            yield gpu
        finally:
            self._gpus.put(gpu)

    def _call(self, stage: Stage, folder: Path, gpu: str | None) -> int:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with (folder / f"console_{stage.name}.log").open("wb") as log:
            with self._lock:
                if self._stopped.is_set():
                    return -signal.SIGTERM
                process = subprocess.Popen(
                    [sys.executable, str(_TIED), str(os.getpid()), *stage.command],
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # its own group: Ctrl-C reaches only this process, which then ends all
                    start_new_session=True,
                )
                self._processes.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._processes.discard(process)

    def _end_processes(self) -> None:
        with self._lock:
            processes = list(self._processes)
        for process in processes:
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)


def explain_failure(log: Path) -> str:
    """The first error in a chain of tracebacks, if any, and the last lines of the log."""
    end = tail(log)
    if not log.is_file():
        return end
    with log.open(encoding="utf-8", errors="replace") as file:
        first = next((line.rstrip() for line in file if _ERROR.match(line)), "")
    return end if first in end else f"{first}\n...\n{end}"


def tail(path: Path, lines: int = 12) -> str:
    """The last non-empty lines of a log."""
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return "\n".join(deque((line.rstrip() for line in file if line.strip()), maxlen=lines))


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
