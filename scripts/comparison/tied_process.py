"""Run a command that the kernel ends when its parent process dies: ``tied_process.py PARENT COMMAND...``.

A killed comparison (-9) cannot end its trainings, which would continue to write to the folders that its successor uses.
Linux only; elsewhere the command runs untied.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the command by exec, which keeps the tie."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # the parent may have died before the tie was made
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
