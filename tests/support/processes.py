"""Processes for the tests: groups of them, and one that holds a folder's lock."""

from __future__ import annotations

import multiprocessing
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing as mp

from support.bundle_runs import run_here

__all__ = ["CONTEXT", "folder_held", "free_port", "run_as_rank", "run_group"]

multiprocessing.set_forkserver_preload(["monai.bundle", "vqseg_bundle.bundle", "vqseg_bundle.engines", "pytest"])

#: processes start in a tenth of a second; none of them has computed anything, and each is new
CONTEXT = multiprocessing.get_context("forkserver")


def run_group(function: Callable[..., None], size: int, *arguments: Any) -> None:
    """Call ``function(rank, *arguments)`` in so many processes; an error in one of them is raised here."""
    mp.start_processes(function, arguments, size, start_method="forkserver")


def free_port() -> int:
    """A port of loopback at which processes may meet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_as_rank(rank: int, world: int, port: int, run_id: str, configs: list[str], settings: dict[str, Any]) -> None:
    """:func:`~support.bundle_runs.run_here` as one of so many processes of torchrun; for :func:`run_group`."""
    with pytest.MonkeyPatch.context() as patch:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in place.items():
            patch.setenv(name, str(value))
        run_here(run_id, *configs, **settings)


_HOLDER = """
import fcntl, os, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.truncate(0)
file.write(f"process {os.getpid()}")
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def folder_held(folder: Path, file: str = ".lock") -> Iterator[int]:
    """Have another process hold a lock in a folder, which is made if missing; then kill it, as a crash would.

    Returns:
        its process id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-S", "-c", _HOLDER, str(folder / file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.kill()
