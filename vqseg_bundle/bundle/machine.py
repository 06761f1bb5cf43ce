"""Threads and number types that fit the machine, chosen before the first step and said in the log."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from vqseg_bundle.common import process_count, process_rank, read_json

__all__ = ["choose_amp", "choose_threads", "set_threads"]

logger = logging.getLogger(__name__)

#: variables by which a user, torchrun or a queue has already settled the number of threads
_SETTLED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def choose_amp(amp: bool | str, device: str) -> bool:
    """Whether to train with automatic mixed precision.

    Args:
        amp: true, false, or "auto": on CUDA devices, and on CPUs that multiply bfloat16 natively (AVX512-BF16 or AMX);
            elsewhere bfloat16 is emulated and slower than float32.
        device: the device.

    Raises:
        SystemExit: ``amp`` is something else.
    """
    if isinstance(amp, bool):
        return amp
    if amp != "auto":
        raise SystemExit(f"amp: expected true, false or auto, got {amp!r}.")
    kind = torch.device(device).type
    chosen = kind == "cuda" or (kind == "cpu" and _has_native_bfloat16())
    if process_rank() == 0:
        logger.info("mixed precision: %s (amp auto, %s)", "on" if chosen else "off", kind)
    return chosen


def set_threads(threads: int | str, device: str, num_workers: int = 0, resumed_dir: str | None = None) -> int:
    """Set the threads that compute one operation in this process.

    Args:
        threads: their number, or "auto": see :func:`choose_threads`.
        device: the device.
        num_workers: processes that prepare batches.
        resumed_dir: folder of the training that goes on, whose recorded number "auto" takes, so that the weights will
            be those of an uninterrupted one; None for none.

    Returns:
        their number.

    Raises:
        SystemExit: ``threads`` is neither "auto" nor a positive whole number.
    """
    if threads == "auto":
        threads = _recorded_threads(Path(resumed_dir)) if resumed_dir is not None else "auto"
    if threads == "auto":
        if torch.device(device).type != "cpu" or process_count() > 1 or any(name in os.environ for name in _SETTLED):
            return torch.get_num_threads()
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float(_cores())
        threads = choose_threads(_cores(), load, num_workers)
        logger.info("threads: %d of %d cores (threads auto, load %.1f)", threads, _cores(), load)
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise SystemExit(f"threads: expected auto or a whole number from 1, got {threads!r}.")
    torch.set_num_threads(threads)
    return threads


def _recorded_threads(folder: Path) -> int | str:
    """The number in the last run's record; "auto" if there is none, as in 0.9 and earlier."""
    for name in ("resumed_run.json", "run.json"):
        try:
            found = read_json(folder / name).get("threads")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(found, int) and found > 0:
            return found
    return "auto"


def choose_threads(cores: int, load: float, num_workers: int = 0) -> int:
    """As many threads as cores are idle, at least one.

    The threads of one operation wait for each other: where two of them share a core with another process, a step takes
    several times as long as with one thread, while a missing thread costs at most its share.

    Args:
        cores: cores that this process may use.
        load: mean number of running processes, of the last minute.
        num_workers: own processes that will need a core each.
    """
    # a load of a fourth is the system's own
    return max(1, cores - int(load + 0.75) - num_workers)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_native_bfloat16() -> bool:
    # PyTorch has no public name for these yet; a version without them counts as a CPU without
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)
