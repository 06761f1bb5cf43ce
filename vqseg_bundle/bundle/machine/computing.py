"""Threads, number types and loader processes that fit the machine, settled before the first step and logged."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.multiprocessing

from vqseg_bundle.common import process_count, process_rank, read_json

__all__ = ["choose_amp", "choose_threads", "fork_loaders", "set_threads"]

logger = logging.getLogger(__name__)

#: variables by which a user, torchrun or a queue has already settled the number of threads
_SETTLED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_WATCHED_SECONDS = 0.5  # a hundredth of a second is the clock of most systems


def choose_amp(amp: bool | str, device: str, resumed_dir: str | None = None) -> bool:
    """Whether to train with automatic mixed precision.

    Args:
        amp: true, false, or "auto": on CUDA devices, and on CPUs that multiply bfloat16 natively (AVX512-BF16 or AMX);
            elsewhere bfloat16 is emulated and slower than float32.
        device: the device.
        resumed_dir: folder of the training that goes on, which "auto" continues as it was recorded, so that its first
            part and its second compute alike; None for none.

    Raises:
        SystemExit: ``amp`` is something else.
    """
    if isinstance(amp, bool):
        return amp
    if amp != "auto":
        raise SystemExit(f"amp: expected true, false or auto, got {amp!r}.")
    kind = torch.device(device).type
    native = kind == "cuda" or (kind == "cpu" and _has_native_bfloat16())
    recorded = _recorded(resumed_dir, "mixed_precision")
    chosen = recorded if isinstance(recorded, bool) else native
    if process_rank() == 0:
        logger.info("mixed precision: %s (amp auto, %s)", "on" if chosen else "off", kind)
        if chosen and not native:
            logger.warning(
                "the training began with mixed precision, which this %s can only emulate, many times slower; "
                "--amp false --resume_changed true goes on in float32.",
                "processor" if kind == "cpu" else "device",
            )
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
        recorded = _recorded(resumed_dir, "threads")
        threads = recorded if isinstance(recorded, int) and recorded > 0 else "auto"
    if threads == "auto":
        if torch.device(device).type != "cpu" or process_count() > 1 or any(name in os.environ for name in _SETTLED):
            return torch.get_num_threads()
        cores, idle = _cores()
        threads = choose_threads(idle, num_workers)
        logger.info("threads: %d of %d cores (threads auto, %.1f idle)", threads, cores, idle)
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise SystemExit(f"threads: expected auto or a whole number from 1, got {threads!r}.")
    torch.set_num_threads(threads)
    return threads


def fork_loaders() -> None:
    """Start loader processes by fork where Python's own choice is the fork server, as it is on Linux since 3.14.

    From a fork server each loader process imports everything anew, takes one open file per tensor that it is handed, of
    which a process may have 1,024, and MONAI's inverse transforms (1.6) do not know its transforms again. Where
    processes are spawned, as on Windows and macOS, nothing changes.
    """
    if torch.multiprocessing.get_start_method() == "forkserver":
        torch.multiprocessing.set_start_method("fork", force=True)


def _recorded(resumed_dir: str | None, key: str) -> Any:
    """A value of the last run's record; None if there is none, as in earlier versions."""
    if resumed_dir is None:
        return None
    for name in ("resumed_run.json", "run.json"):
        try:
            found = read_json(Path(resumed_dir) / name).get(key)
        except (OSError, ValueError, AttributeError):
            continue
        if found is not None:
            return found
    return None


def choose_threads(idle_cores: float, num_workers: int = 0) -> int:
    """As many threads as cores are idle, at least one.

    The threads of one operation wait for each other: where two of them share a core with another process, a step takes
    several times as long as with one thread, while a missing thread costs at most its share.

    Args:
        idle_cores: cores that this process may use, less what others take of them.
        num_workers: own processes that will need a core each.
    """
    # a fourth of a core is the system's own
    return max(1, int(idle_cores + 0.25) - num_workers)


def _cores() -> tuple[int, float]:
    """Cores that this process may use, and how many of them were idle while it waited.

    The load of the last minute would count what has ended, such as the user's previous command.
    """
    busy = psutil.cpu_percent(_WATCHED_SECONDS, percpu=True)
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(busy))
    # where cores are switched off, or a container numbers its own, they need not have the same numbers
    shares = [busy[core] for core in own if core < len(busy)] or busy
    return len(own), len(own) * (1 - sum(shares) / len(shares) / 100)


def _has_native_bfloat16() -> bool:
    # PyTorch has no public name for these yet; a version without them counts as a CPU without
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)
