"""Each comparison in a process of its own.

What earlier work leaves behind, above all in the C library's allocator, which learns from every large block freed,
speeds some contenders up several times over; a fresh process gives all settings the same start.
"""

from __future__ import annotations

import logging
import multiprocessing
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch

from scripts.benchmark.comparison import Comparison, Result
from scripts.benchmark.runner import RunSettings, measure

__all__ = ["measure_apart"]


def measure_apart(comparison: Comparison, settings: RunSettings, advance: Callable[[float], None]) -> list[Result]:
    """:func:`~scripts.benchmark.runner.measure` in a fresh process.

    Args:
        comparison: what to measure; picklable.
        settings: how.
        advance: told the expected seconds of each run that is done.

    Raises:
        RuntimeError: the process ended without a result.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, comparison, settings))
    process.start()
    sender.close()
    results: list[Result] | None = None
    while results is None:
        try:
            message = receiver.recv()
        except EOFError:
            process.join()
            raise RuntimeError(
                f"the process that measured {dict(comparison.setting)} ended with exit code {process.exitcode}."
            ) from None
        if isinstance(message, float):
            advance(message)
        else:
            results = message
    process.join()
    return results


def _run(sender: Connection, comparison: Comparison, settings: RunSettings) -> None:
    torch.set_num_threads(settings.threads)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    sender.send(measure(comparison, settings, lambda seconds: sender.send(float(seconds))))
