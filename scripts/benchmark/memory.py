"""Peak memory of one run, in a child process of its own."""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import platform
import resource
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from scripts.benchmark.timing import timed

__all__ = ["ChildReading", "measure_in_child"]

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_OOM_SCORE = Path("/proc/self/oom_score_adj")
# Imported once by the process that all children are forked from; it computes nothing, so forking it is safe.
_PRELOADED = ["torch", "monai.bundle", "monai.engines", "vqseg_bundle.networks", "vqseg_bundle.engines", "tqdm"]


class ChildReading(NamedTuple):
    """What a child process read off one run.

    Attributes:
        seconds: its time; a first run, so slower than a warm one.
        extra_bytes: peak memory beyond what was there before the run; None after a failure.
        failure: why there is nothing to read; empty after success.
    """

    seconds: float
    extra_bytes: int | None
    failure: str


def measure_in_child(prepare: Callable[[], Callable[[], Any]], device: str, threads: int) -> ChildReading:
    """Prepare and run a work once in a fresh process and read its peak memory there.

    On the CPU the peak of the resident set during the run minus its size right before; on CUDA the same of PyTorch's
    allocator. The inputs are there before; what the run allocates, results included, counts.

    Args:
        prepare: builds inputs and returns the work; picklable.
        device: "cpu" or "cuda".
        threads: PyTorch's threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_child, args=(sender, prepare, device, threads), daemon=True)
    child.start()
    sender.close()
    try:
        reading: ChildReading | None = receiver.recv()
    except EOFError:
        reading = None
    child.join()
    return reading or ChildReading(0.0, None, f"failed: its process ended with exit code {child.exitcode}")


def _run_child(sender: Connection, prepare: Callable[[], Callable[[], Any]], device: str, threads: int) -> None:
    if os.access(_OOM_SCORE, os.W_OK):
        _OOM_SCORE.write_text("1000")  # if memory runs out, this process goes, not the benchmark
    torch.set_num_threads(threads)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    try:
        work = prepare()
        _wake_libraries(device)
        read = _cuda_peak if torch.device(device).type == "cuda" else _resident_peak
        sender.send(read(work, device))
    except Exception as error:
        sender.send(ChildReading(0.0, None, f"failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}"))


def _cuda_peak(work: Callable[[], Any], device: str) -> ChildReading:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    seconds = timed(work, device)
    return ChildReading(seconds, torch.cuda.max_memory_allocated(device) - before, "")


def _resident_peak(work: Callable[[], Any], device: str) -> ChildReading:
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        # memory that building the inputs freed would otherwise be used again unseen
        ctypes.CDLL(None).malloc_trim(0)
    if not os.access(_CLEAR_REFS, os.W_OK):
        before = _highest_resident()
        seconds = timed(work, device)
        return ChildReading(seconds, _highest_resident() - before, "")
    _CLEAR_REFS.write_text("5")  # the highest resident size starts again from the present one
    before = _status_bytes("VmRSS")
    seconds = timed(work, device)
    return ChildReading(seconds, max(0, _status_bytes("VmHWM") - before), "")


def _highest_resident() -> int:
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no field {field}.")


def _wake_libraries(device: str) -> None:
    """Load what the libraries load with their first product, convolution and backward pass: not the work's memory."""
    left = torch.rand(64, 64, device=device, requires_grad=True)
    (left @ left).softmax(dim=1).sum().backward()
    left.detach().argmin(dim=1).sum().item()
    pixels = left.detach().view(1, 64, 1, 64).permute(0, 3, 1, 2)  # channels last
    torch.nn.functional.conv2d(pixels, left.detach().view(64, 64, 1, 1)).sum().item()
