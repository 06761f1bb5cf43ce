"""A folder that another process holds, for the tests of the lock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["folder_held"]

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
def folder_held(folder: Path) -> Iterator[int]:
    """Have another process hold the lock of a folder, which is made if missing; then kill it, as a crash would.

    Returns:
        its process id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-S", "-c", _HOLDER, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.kill()
