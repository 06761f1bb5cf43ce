"""Settings that cannot be trained with, refused before the first step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from vqseg_bundle.bundle.overrides import exit_cleanly, running_parser

__all__ = ["build_cleanly", "check_preprocessing", "check_settings"]

logger = logging.getLogger(__name__)


def check_settings(preprocessing: Mapping[str, Any], components: Sequence[str]) -> None:
    """Check the sizes, and build the parts of the configuration that refuse bad arguments by themselves.

    Args:
        preprocessing: see :func:`check_preprocessing`.
        components: see :func:`build_cleanly`.

    Raises:
        SystemExit: a setting is at fault; the message says which.
    """
    exit_cleanly(check_preprocessing, preprocessing)
    build_cleanly(components)


def build_cleanly(components: Sequence[str]) -> None:
    """Build parts of the running configuration; MONAI would bury a refused argument in its own tracebacks.

    What is built is kept: a later reference to the same id gets the same object.

    Args:
        components: ids, such as "network_def", in the order to build them.

    Raises:
        SystemExit: a part refused an argument by a ``ValueError``; the message names the id, or the part ended the run.
        RuntimeError: a part could not be built for another reason.
    """
    parser = running_parser()
    for component in components:
        try:
            parser.get_parsed_content(component)
        except RuntimeError as error:
            cause = _first_cause(error)
            if not isinstance(cause, ValueError):
                raise
            logger.debug("refused setting", exc_info=True)
            raise SystemExit(f"{component}: {cause}") from error


def check_preprocessing(preprocessing: Mapping[str, Any]) -> None:
    """Check what the images are to be cut and resampled to.

    Args:
        preprocessing: with ``spatial_dims``, ``patch_size`` (one size an axis of the network), ``image_size`` (one to
            three sizes, or None) and ``spacing`` (one to three numbers in mm, or None).

    Raises:
        ValueError: a value of another kind, sign or length.
    """
    dims = preprocessing["spatial_dims"]
    if dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {dims!r}.")
    patch_size = preprocessing["patch_size"]
    if not _are_positive(patch_size, int) or len(patch_size) != dims:
        raise ValueError(
            f"patch_size must hold {dims} sizes in voxels, such as {[96, 96, 16][:dims]}, for spatial_dims {dims}, "
            f"got {patch_size!r}."
        )
    for key, kind, unit in (("image_size", int, "sizes in voxels"), ("spacing", (int, float), "voxel sizes in mm")):
        values = preprocessing[key]
        if values is not None and not (_are_positive(values, kind) and 1 <= len(values) <= 3):
            raise ValueError(f"{key} must hold one to three {unit}, or be None, got {values!r}.")


def _are_positive(values: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(values, list | tuple) and all(
        isinstance(value, kind) and not isinstance(value, bool) and value > 0 for value in values
    )


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
