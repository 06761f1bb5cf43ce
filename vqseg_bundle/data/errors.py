"""The error that names what is wrong with a user's data."""

from __future__ import annotations

__all__ = ["DataError"]


class DataError(ValueError):
    """The user's data are at fault; the message names the file or key, what was expected, found, and a remedy."""
