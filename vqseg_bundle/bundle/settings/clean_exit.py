"""Input at fault ends a command with one message."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from vqseg_bundle.common import permission_text

__all__ = ["exit_cleanly"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


def exit_cleanly(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run ``function``; if the user's input is at fault, exit with only its message, without a traceback.

    Args:
        function: the function.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Returns:
        The function's result.

    Raises:
        SystemExit: ``function`` raised a ``ValueError``, or an error about a file or folder.
    """
    try:
        return function(*args, **kwargs)
    except PermissionError as error:
        raise SystemExit(permission_text(error)) from error
    except (ValueError, OSError) as error:
        logger.debug("refused input", exc_info=True)
        raise SystemExit(str(error)) from error
