"""Locks that let one process at a time work in an output folder."""

from __future__ import annotations

import errno
import logging
import os
import platform
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TextIO

from monai.utils import optional_import

from vqseg_bundle.common import process_rank

__all__ = ["FolderLock", "check_unused", "folders_left_at_end", "leave_folder", "use_folder"]

logger = logging.getLogger(__name__)

# not on Windows
fcntl, CAN_LOCK = optional_import("fcntl")
_HELD = (errno.EACCES, errno.EAGAIN)


class FolderLock:
    """The lock of a folder, which the system releases however its process ends, so that a crash never leaves one
    behind.

    It locks a file, ``.lock`` in the folder, which names its holder. It works between processes, also on several
    machines if their file system supports such locks; within one process it may be taken again, and child processes do
    not hold it. If the system has no such locks, nothing is locked.

    Args:
        folder: the folder.
        work: name of the work, for the message.
        file: the locked file, relative to the folder.
    """

    def __init__(self, folder: str | Path, work: str = "training", file: str | Path = ".lock") -> None:
        self.folder = Path(folder)
        self.work = work
        self.path = (self.folder / file).absolute()
        self._file: TextIO | None = None

    def check(self) -> None:
        """Refuse a folder held by another process; nothing is locked or written.

        Raises:
            ValueError: it is held.
        """
        if CAN_LOCK and self.path.is_file() and self._file is None:
            with self.path.open("r+", encoding="utf-8") as file:
                self._lock(file)

    def take(self) -> None:
        """Hold the folder, made if missing, until :meth:`release` or the end of this process.

        Raises:
            ValueError: another process holds it.
        """
        if not CAN_LOCK or self._file is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+", encoding="utf-8")
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
            self.warn(error)

    def warn(self, error: OSError) -> None:
        """Warn that the folder cannot be locked."""
        logger.warning(
            "%s cannot be locked (%s): make sure that no other %s writes there.", self.folder, error.strerror, self.work
        )


#: locks of evaluations and inferences that this process holds, each as often as runs need it
_used: list[FolderLock] = []


def check_unused(folder: str | Path, work: str) -> None:
    """Refuse a folder in which another process evaluates or segments; nothing is locked or written.

    Args:
        folder: of an evaluation's results or an inference's predictions.
        work: "evaluation" or "inference".

    Raises:
        ValueError: another process holds it.
    """
    lock = _lock(folder, work)
    # looking at a file that this process has locked would unlock it
    if process_rank() == 0 and _held(lock) is None:
        with suppress(OSError):
            lock.check()


def use_folder(folder: str | Path, work: str) -> None:
    """Hold a folder, see :func:`check_unused`, until as many calls of :func:`leave_folder`, or this process's end.

    Only the first process holds it. Where its file cannot be made or is another user's, a warning says so.

    Raises:
        ValueError: another process holds it.
    """
    if process_rank() != 0:
        return
    lock = _lock(folder, work)
    held = _held(lock)
    if held is None:
        try:
            lock.take()
        except OSError as error:
            lock.warn(error)
    _used.append(held or lock)


def leave_folder(folder: str | Path, work: str) -> None:
    """End what :func:`use_folder` began; does nothing without it."""
    held = _held(_lock(folder, work))
    if held is not None:
        _leave(held)


@contextmanager
def folders_left_at_end() -> Iterator[None]:
    """Leave the folders that runs in the block still use at its end, because they failed."""
    before = Counter(_used)
    try:
        yield
    finally:
        for lock in (Counter(_used) - before).elements():
            _leave(lock)


def _lock(folder: str | Path, work: str) -> FolderLock:
    # predictions are moved aside as a folder, which a lock in it would follow
    place = Path(folder).absolute().parent if work == "inference" else Path()
    return FolderLock(folder, work, place / f".{work}.lock")


def _held(lock: FolderLock) -> FolderLock | None:
    return next((held for held in _used if held.path == lock.path), None)


def _leave(lock: FolderLock) -> None:
    _used.remove(lock)
    if lock not in _used:
        lock.release()
