"""Packages that only some users need, the extras of an installation: imported when they are used, else named.

A missing one is no error before something needs it; the message then says how to install it.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["LateModule", "MissingExtraError", "import_with_extra"]


class MissingExtraError(ValueError):
    """A package of an extra is not installed; the message has the command that installs it."""


def import_with_extra(module: str, extra: str) -> ModuleType:
    """Import a module that needs an extra's packages.

    Args:
        module: its full name.
        extra: "dicom" or "foundation", as in ``pip install "vqseg_bundle[dicom]"``.

    Raises:
        MissingExtraError: a package is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        raise MissingExtraError(
            f'{package} is not installed. It comes with an extra: pip install "vqseg_bundle[{extra}]", or in a '
            f'checkout pip install -e ".[{extra}]".'
        ) from error


class LateModule:
    """Stands for a module and imports it when an attribute is first asked for.

    Args:
        module: see :func:`import_with_extra`.
        extra: see there.
    """

    def __init__(self, module: str, extra: str) -> None:
        self._module, self._extra = module, extra

    def __getattr__(self, name: str) -> Any:
        return getattr(import_with_extra(self._module, self._extra), name)
