"""Time and peak memory of contenders: memory in a separate process for each, times in turns in another.

Traces of earlier work, above all in the C library's allocator, which adapts to every large freed block, can make some
contenders several times faster; fresh processes give all the same start.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import platform
import resource
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from scripts.benchmark.contenders import Comparison, Contender

__all__ = ["CLOCKS", "MEASURED", "Result", "RunSettings", "measure", "read_memory", "take_turns", "timed"]

#: Status of a measured contender.
MEASURED = "measured"
#: Clocks: wall time, or processor time of this process and its threads.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}

# Worker threads of a library's pool spin for a moment after its work; the next contender must start without them.
_PAUSE_S = 0.005
# All counted rounds of a comparison should take no longer than this, at the pace of the warm-up.
_ROUNDS_BUDGET_S = 45.0
_FEWEST_ROUNDS = 3
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_OOM_SCORE = Path("/proc/self/oom_score_adj")
# Imported once by the process from which all others are forked; it computes nothing, so forking is safe.
_PRELOADED = ["torch", "monai.bundle", "monai.engines", "vqseg_bundle.networks", "vqseg_bundle.engines"]

Returned = TypeVar("Returned")


@dataclass(frozen=True)
class RunSettings:
    """Options of the measurement.

    Attributes:
        device: "cpu" or "cuda".
        threads: PyTorch's threads, at least 1.
        repeats: largest number of counted rounds, at least 1; slow comparisons get fewer.
        memory_limit: largest memory of a contender in bytes; contenders that need more are skipped.
        clock: one of :data:`CLOCKS`; "cpu" is for a machine busy with other work.

    Raises:
        ValueError: a number or clock is invalid, or the processor's clock is used for another device.
    """

    device: str
    threads: int
    repeats: int
    memory_limit: float
    clock: str = "wall"

    def __post_init__(self) -> None:
        if self.threads < 1 or self.repeats < 1 or not self.memory_limit > 0:
            raise ValueError(
                "threads and repeats must be at least 1 and the memory limit positive, "
                f"got {self.threads}, {self.repeats} and {self.memory_limit:g}."
            )
        if self.clock not in CLOCKS:
            raise ValueError(f"clock must be one of {', '.join(CLOCKS)}, got '{self.clock}'.")
        if self.clock != "wall" and self.device != "cpu":
            raise ValueError(f"clock '{self.clock}' measures only the processor, got device '{self.device}'.")


class Result(NamedTuple):
    """The measurement of one contender.

    Attributes:
        contender: its name.
        status: :data:`MEASURED`, or why it was not measured.
        seconds: time of each run.
        extra_bytes: peak memory of one run minus the memory before it; None if not measured.
    """

    contender: str
    status: str
    seconds: tuple[float, ...] = ()
    extra_bytes: int | None = None


def measure(comparison: Comparison, settings: RunSettings) -> list[Result]:
    """One result per contender, in order."""
    results = {each.name: _first_run(each, settings) for each in comparison.contenders}
    in_rounds = {
        each.name: each.prepare
        for each in comparison.contenders
        if results[each.name].status == MEASURED and not each.once
    }
    for name, seconds in _in_fresh_process(settings.threads, take_turns, in_rounds, settings).items():
        results[name] = results[name]._replace(seconds=seconds)
    return list(results.values())


def take_turns(
    prepares: Mapping[str, Callable[[], Callable[[], Any]]], settings: RunSettings
) -> dict[str, tuple[float, ...]]:
    """Times of all works, one run each per round, A B A B, so that the machine's drift affects all equally.

    An uncounted warm-up round comes first and determines the number of rounds.
    """
    works = {name: prepare() for name, prepare in prepares.items()}
    warm_up = sum(timed(work, settings.device, settings.clock) for work in works.values())
    affordable = max(_FEWEST_ROUNDS, int(_ROUNDS_BUDGET_S / max(warm_up, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(min(settings.repeats, affordable)):
        for name, work in works.items():
            times[name].append(timed(work, settings.device, settings.clock))
    return {name: tuple(values) for name, values in times.items()}


def timed(work: Callable[[], Any], device: str, clock: str = "wall") -> float:
    """Seconds of one run; on CUDA between two synchronised events.

    Args:
        work: the run; its result is kept until the clock stops.
        device: "cpu" or "cuda".
        clock: one of :data:`CLOCKS`; CUDA's events have their own clock.
    """
    time.sleep(_PAUSE_S)
    if torch.device(device).type != "cuda":
        start = CLOCKS[clock]()
        result = work()
        seconds = CLOCKS[clock]() - start
        del result
        return seconds
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    result = work()
    end.record()
    end.synchronize()
    del result
    return begin.elapsed_time(end) / 1000.0


def read_memory(prepare: Callable[[], Callable[[], Any]], settings: RunSettings) -> tuple[float, int]:
    """Seconds of a work's first run, and its peak memory in bytes minus the memory before it.

    On the CPU, the peak of the resident set during the run minus its size right before; on CUDA, the same for PyTorch's
    allocator. Inputs do not count; everything that the run allocates does, results included.
    """
    if os.access(_OOM_SCORE, os.W_OK):
        _OOM_SCORE.write_text("1000")  # if memory runs out, this process is killed, not the benchmark
    work = prepare()
    _wake_libraries(settings.device)
    if torch.device(settings.device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(settings.device)
        allocated = torch.cuda.memory_allocated(settings.device)
        seconds = timed(work, settings.device)
        return seconds, torch.cuda.max_memory_allocated(settings.device) - allocated
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        # otherwise memory freed while building the inputs would be reused unnoticed
        ctypes.CDLL(None).malloc_trim(0)
    before = _restart_peak()
    seconds = timed(work, settings.device)
    return seconds, max(0, _peak() - before)


def _first_run(contender: Contender, settings: RunSettings) -> Result:
    """Time and memory of a run in a separate process, or why there are none."""
    if contender.unavailable:
        return Result(contender.name, contender.unavailable)
    if contender.extra_bytes > settings.memory_limit:
        return Result(contender.name, f"skipped: needs about {contender.extra_bytes / 1e9:.0f} GB")
    try:
        seconds, extra_bytes = _in_fresh_process(settings.threads, read_memory, contender.prepare, settings)
    except Exception as error:
        return Result(contender.name, f"failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
    return Result(contender.name, MEASURED, (seconds,), extra_bytes)


def _in_fresh_process(threads: int, work: Callable[..., Returned], *arguments: Any) -> Returned:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with ProcessPoolExecutor(1, mp_context=context, initializer=_settle, initargs=(threads,)) as pool:
        return pool.submit(work, *arguments).result()


def _settle(threads: int) -> None:
    torch.set_num_threads(threads)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def _restart_peak() -> int:
    """Resident bytes now, from which the peak is reset if the kernel allows it."""
    if not os.access(_CLEAR_REFS, os.W_OK):
        return _peak()
    _CLEAR_REFS.write_text("5")
    return _status_bytes("VmRSS")


def _peak() -> int:
    if os.access(_CLEAR_REFS, os.W_OK):
        return _status_bytes("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def _status_bytes(field: str) -> int:
    (line,) = [line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def _wake_libraries(device: str) -> None:
    """Trigger what libraries load in their first product, convolution and backward pass: not the work's memory."""
    left = torch.rand(64, 64, device=device, requires_grad=True)
    (left @ left).softmax(dim=1).sum().backward()
    left.detach().argmin(dim=1).sum().item()
    pixels = left.detach().view(1, 64, 1, 64).permute(0, 3, 1, 2)  # channels last
    torch.nn.functional.conv2d(pixels, left.detach().view(64, 64, 1, 1)).sum().item()
