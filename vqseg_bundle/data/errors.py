"""The error for faults in a user's data, and how files are listed in it."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["DataError", "file_list", "some"]


class DataError(ValueError):
    """The user's data are at fault; the message names the file or key, what was expected and found, and a remedy."""


def file_list(files: Sequence[str], most: int = 3) -> str:
    """Name the first files, at most so many, and count the others."""
    more = len(files) - most
    return ", ".join(files[:most]) + (f" and {more} more" if more > 0 else "")


def some(names: Sequence[str]) -> str:
    """Like :func:`file_list` for five names of cases or patients."""
    return file_list(names, most=5)
