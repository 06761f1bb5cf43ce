"""Where the project's own configurations and licence are, in a checkout, a made bundle and an installed wheel."""

from __future__ import annotations

from pathlib import Path

__all__ = ["project_folder"]

_PACKAGE = Path(__file__).parents[1]


def project_folder() -> Path:
    """The folder that holds ``configs`` and ``LICENSE``.

    A wheel carries both inside the package, in ``resources``; in a checkout and in a made bundle they lie beside it.
    """
    resources = _PACKAGE / "resources"
    return resources if resources.is_dir() else _PACKAGE.parent
