"""The error for faults in a user's data, and how files are listed in it."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["DataError", "file_list"]

_MOST_FILES_SHOWN = 3


class DataError(ValueError):
    """The user's data are at fault; the message names the file or key, what was expected and found, and a remedy."""


def file_list(files: Sequence[str]) -> str:
    """Name the first files and count the others."""
    more = len(files) - _MOST_FILES_SHOWN
    return ", ".join(files[:_MOST_FILES_SHOWN]) + (f" and {more} more" if more > 0 else "")
