"""The log of a command in a file of its output folder."""

from __future__ import annotations

import logging
from pathlib import Path

from vqseg_bundle.common import VISIBLE_UTF8

__all__ = ["STATS_LOGGERS", "log_to_file"]

#: names of the StatsHandlers' loggers in the configurations
STATS_LOGGERS = ("training", "validation", "codebook", "evaluation", "inference")


def log_to_file(path: Path) -> None:
    """Also send the log to a file; only once, even if called repeatedly.

    Args:
        path: the file, appended to.
    """
    handler = logging.FileHandler(path, encoding=VISIBLE_UTF8, errors="backslashreplace", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # MONAI's StatsHandler detaches its named loggers from the root
    for logger_ in map(logging.getLogger, (None, *STATS_LOGGERS)):
        # MONAI's federated client initialises a workflow twice
        if not any(getattr(other, "baseFilename", None) == handler.baseFilename for other in logger_.handlers):
            logger_.addHandler(handler)
