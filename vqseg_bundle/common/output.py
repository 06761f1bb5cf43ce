"""Output of names that no text encoding holds."""

from __future__ import annotations

import io
import sys

__all__ = ["print_any_name"]


def print_any_name() -> None:
    """Let this process print and log file names whose bytes are no UTF-8: such bytes are shown as ``\\udcff``.

    Python would end a command, or lose a line of its log, where one occurs.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
