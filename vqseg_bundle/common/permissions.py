"""A message for files and folders that this user may not read or write."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["find_permission_error", "permission_text"]


def find_permission_error(error: BaseException | None) -> PermissionError | None:
    """The error itself, or the one that it was raised from, if it says that something may not be read or written."""
    while error is not None and not isinstance(error, PermissionError):
        error = error.__cause__
    return error


def permission_text(error: PermissionError) -> str:
    """What may not be read or written, and what to do; named is a folder above it if that is what cannot be entered."""
    if not isinstance(error.filename, str | os.PathLike):
        return str(error)
    path = Path(error.filename)
    # from the top, since nothing is known of what lies in a folder that cannot be entered
    above = (folder for folder in reversed(path.parents) if folder.exists())
    shut = next((folder for folder in above if not os.access(folder, os.X_OK)), None)
    if shut is not None:
        return f"{shut}: cannot be read ({error.strerror}); change its permissions."
    place = path if os.path.lexists(path) else path.parent  # a file that was to be made
    if place != path or (os.access(path, os.R_OK) and not os.access(path, os.W_OK)):
        return f"{place}: cannot be written ({error.strerror}); change its permissions, or name another place."
    return f"{path}: cannot be read ({error.strerror}); change its permissions."
