"""A lock that lets one process at a time work in an output folder."""

from __future__ import annotations

import errno
import logging
import os
import platform
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TextIO

from monai.utils import optional_import

__all__ = ["FolderLock"]

logger = logging.getLogger(__name__)

# not on Windows
fcntl, CAN_LOCK = optional_import("fcntl")
_HELD = (errno.EACCES, errno.EAGAIN)


class FolderLock:
    """The lock of a folder, which the system releases however its process ends, so that a crash never leaves one
    behind.

    It locks the file ``.lock`` in the folder, which names its holder. It works between processes, also on several
    machines if their file system supports such locks; within one process it may be taken again, and child processes do
    not hold it. If the system has no such locks, nothing is locked.

    Args:
        folder: the folder.
        work: name of the work, for the message.
    """

    def __init__(self, folder: str | Path, work: str = "training") -> None:
        self.folder = Path(folder)
        self.work = work
        self._file: TextIO | None = None

    def check(self) -> None:
        """Refuse a folder held by another process; nothing is locked or written.

        Raises:
            ValueError: it is held.
        """
        path = self.folder / ".lock"
        if CAN_LOCK and path.is_file() and self._file is None:
            with path.open("r+", encoding="utf-8") as file:
                self._lock(file)

    def take(self) -> None:
        """Hold the folder, created if missing, until :meth:`release` or the end of this process.

        Raises:
            ValueError: another process holds it.
        """
        if not CAN_LOCK or self._file is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        file = (self.folder / ".lock").open("a+", encoding="utf-8")
        try:
            self._lock(file)
        except ValueError:
            file.close()
            raise
        file.truncate(0)
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        file.write(f"process {os.getpid()} on {platform.node()}, since {started}")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Release the folder; does nothing without the lock."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None

    def __enter__(self) -> FolderLock:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _lock(self, file: TextIO) -> None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                file.seek(0)
                holder = file.read().strip() or "of an unknown process"
                raise ValueError(
                    f"{self.folder}: another {self.work} ({holder}) is at work in it. "
                    "Wait until it has ended, or name another folder."
                ) from error
            logger.warning(
                "%s cannot be locked (%s): make sure that no other %s writes there.",
                self.folder,
                error.strerror,
                self.work,
            )
