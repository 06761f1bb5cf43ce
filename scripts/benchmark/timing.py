"""Times of works that take turns: A B A B, so that a machine's drift meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["CLOCKS", "interleaved_times", "timed"]

#: What a second is: of the clock on the wall, or of processor time that this process and its threads took.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}

# Worker threads of one library's pool spin on for a moment after its work; the next contender is to start without them.
_PAUSE_S = 0.005


def timed(work: Callable[[], Any], device: str, clock: str = "wall") -> float:
    """Seconds that one run takes; on CUDA between two events, synchronised.

    Args:
        work: the run; its result is kept until the clock has stopped.
        device: "cpu" or "cuda".
        clock: one of :data:`CLOCKS`; CUDA's events have a clock of their own.
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


def interleaved_times(
    works: Mapping[str, Callable[[], Any]],
    device: str,
    rounds: int,
    on_run: Callable[[str], None],
    clock: str = "wall",
) -> dict[str, tuple[float, ...]]:
    """Times of every work, one run each a round, after one round of warm-up that does not count.

    Args:
        works: by name.
        device: "cpu" or "cuda".
        rounds: number of counted rounds, at least 1.
        on_run: told the name after each run, warm-up included.
        clock: one of :data:`CLOCKS`.

    Raises:
        ValueError: ``rounds`` below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}.")
    times: dict[str, list[float]] = {name: [] for name in works}
    for counted in [False] + [True] * rounds:
        for name, work in works.items():
            seconds = timed(work, device, clock)
            if counted:
                times[name].append(seconds)
            on_run(name)
    return {name: tuple(values) for name, values in times.items()}
