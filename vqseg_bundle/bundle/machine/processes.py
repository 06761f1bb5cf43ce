"""Runs engines, in one process or in torchrun's, with a message if they end early."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.engine import Engine

from vqseg_bundle.bundle.records.folder_lock import FolderLock
from vqseg_bundle.bundle.records.run_record import KEPT_SCANS, resume_command
from vqseg_bundle.common import NonFiniteError, is_disk_full, is_memory_full, process_count, process_rank

__all__ = ["end_on_signals", "full_disk_named_once", "join_processes", "run_together", "run_training"]

logger = logging.getLogger(__name__)

#: environment variables set by torchrun
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def end_on_signals() -> None:
    """Let SIGINT (Ctrl-C) and SIGTERM (Slurm, Docker) end this process in one line, with the shell's code for them.

    The steps of a training, which are saved first, have a handler of their own
    (:class:`~vqseg_bundle.handlers.StopOnSignal`). A second signal ends the process at once.
    """
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() == process and process_rank() == 0:  # workers that load data are left without a word
            logger.warning("Stopped by %s. What was written before is kept.", signal.Signals(number).name)
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def join_processes(timeout_minutes: float) -> None:
    """Join this process's group, with NCCL if there is CUDA, otherwise gloo.

    Args:
        timeout_minutes: how long one process waits for another before giving up. Must be longer than the check of the
            cohort, which the first process does while the others wait.

    Raises:
        SystemExit: not started by torchrun, more processes than CUDA devices, or the timeout is not positive.
    """
    missing = [name for name in _TORCHRUN if name not in os.environ]
    if missing:
        raise SystemExit(
            f"a configuration for several processes was run without torchrun ({', '.join(missing)} not set). Start it "
            "by 'torchrun --standalone --nnodes=1 --nproc_per_node=N -m monai.bundle run ...', or leave the multi_gpu "
            "overlay out of --config_file."
        )
    is_number = isinstance(timeout_minutes, int | float) and not isinstance(timeout_minutes, bool)
    if not (is_number and timeout_minutes > 0):
        raise SystemExit(f"process_timeout_minutes must be a positive number, got {timeout_minutes!r}.")
    local, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if torch.cuda.is_available() and local >= devices:
        raise SystemExit(
            f"process {local} of this machine has no GPU of its own: PyTorch finds {devices}. Start torchrun with "
            f"--nproc_per_node={devices} or fewer."
        )
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    idist.initialize(backend, timeout=timedelta(minutes=timeout_minutes))


def run_training(engine: Engine, lock: FolderLock | None = None) -> None:
    """Run an engine, with a clear message if it cannot go on.

    Args:
        engine: the trainer or evaluator.
        lock: lock of its output folder, released at the end; scans that were kept in the folder are removed.

    Raises:
        SystemExit: a loss, gradient or weight is not finite, memory does not suffice, or no more can be written; the
            message says which, and what to do. Or a signal has stopped a training: with the shell's code for it, 130
            or 143.
    """
    try:
        with full_disk_named_once():
            engine.run()
    except NonFiniteError as error:
        raise SystemExit(str(error)) from error
    except (OSError, RuntimeError, MemoryError) as error:  # torch wraps what it cannot write
        if is_memory_full(error):
            raise SystemExit(
                f"The memory is full, in iteration {engine.state.iteration}. Lower patch_size, labeled_batch_size or "
                "unlabeled_batch_size, or give --activation_checkpointing true; inference_memory_gb limits validation."
            ) from error
        if not is_disk_full(error):
            raise
        raise SystemExit(
            f"No space is left to write to, in iteration {engine.state.iteration}. What was saved before is kept. Make "
            "space; a training goes on with the same command and --resume true."
        ) from error
    finally:
        if lock is not None:
            if process_rank() == 0:
                shutil.rmtree(lock.folder / KEPT_SCANS, ignore_errors=True)
            lock.release()
    number = getattr(engine.state, "stop_signal", None)
    if number is not None:
        logger.warning(
            "Stopped by %s after iteration %d, which is saved. To go on: %s",
            signal.Signals(number).name,
            engine.state.iteration,
            resume_command(sys.argv),
        )
        raise SystemExit(128 + number)


@contextmanager
def full_disk_named_once() -> Iterator[None]:
    """TensorBoard writes in a thread of its own, which would print a traceback beside the message."""
    former = threading.excepthook
    threading.excepthook = lambda found: None if is_disk_full(found.exc_value) else former(found)
    try:
        yield
    finally:
        threading.excepthook = former


def run_together(engine: Engine, lock: FolderLock | None = None) -> None:
    """:func:`run_training` in several processes, with a clear message if another one has died or no longer answers.

    This process's own errors are raised unchanged.

    Args:
        engine: the trainer or evaluator.
        lock: lock of its output folder, released at the end.

    Raises:
        SystemExit: see :func:`run_training`, or another process was lost; the message says when, and what to do.
    """
    try:
        run_training(engine, lock)
    except RuntimeError as error:
        if not _is_lost_process(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise SystemExit(
            f"process {process_rank()} of {process_count()} stops in iteration {engine.state.iteration}: "
            f"another process has ended or has not answered in time ({reason}). Its own error, or how it ended, is in "
            "the output of torchrun: killed by signal 9 mostly is too little memory. A training goes on from what it "
            "saved last with the same command and --resume true."
        ) from error


def _is_lost_process(error: RuntimeError) -> bool:
    # gloo raises plain errors that name its source files, NCCL raises PyTorch's own
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
