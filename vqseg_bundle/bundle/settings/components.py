"""Invalid settings are refused before the first step."""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.utils import OptionalImportError
from torch.optim import Optimizer

from vqseg_bundle import data
from vqseg_bundle.bundle.machine.processes import full_disk_named_once
from vqseg_bundle.bundle.settings.clean_exit import exit_cleanly
from vqseg_bundle.bundle.settings.running_workflow import running_parser
from vqseg_bundle.bundle.settings.setting_table import check_values
from vqseg_bundle.common import is_disk_full

__all__ = ["build_cleanly", "check_device", "check_given", "check_preprocessing", "check_recorded", "check_settings"]

logger = logging.getLogger(__name__)

_RECORDED = ("spatial_dims", "in_channels", "slice_axis", "spacing", "image_size", "patch_size", "intensity_window")


def check_settings(
    device: str, preprocessing: Mapping[str, Any], components: Sequence[str], parser: ConfigParser | None = None
) -> None:
    """Check device and sizes, and build the parts of the configuration that check their own arguments.

    Args:
        device: see :func:`check_device`.
        preprocessing: see :func:`check_preprocessing`.
        components: see :func:`build_cleanly`.
        parser: see :func:`build_cleanly`.

    Raises:
        SystemExit: a setting is at fault; the message says which.
    """
    exit_cleanly(check_device, device)
    exit_cleanly(check_preprocessing, preprocessing)
    exit_cleanly(_check_turns, running_parser(parser).get("quarter_turns"), preprocessing["patch_size"])
    build_cleanly(components, parser)
    if "optimizer" in components:
        exit_cleanly(_check_rates, running_parser(parser).get_parsed_content("optimizer"))


def _check_turns(probability: float | None, patch_size: Sequence[int]) -> None:
    if probability and patch_size[0] != patch_size[1]:
        raise ValueError(
            f"quarter_turns {probability}: expected a view as wide as high, found patch_size {list(patch_size)}; give "
            'such an image_size or patch_size, "[128,128]" for example, or quarter_turns 0.'
        )


def _check_rates(optimizer: Optimizer) -> None:
    rates = [group["lr"] for group in optimizer.param_groups]
    if min(rates) <= 0:
        raise ValueError(f"optimizer#lr: expected positive learning rates, found {rates}; with 0 nothing is learnt.")


def build_cleanly(components: Sequence[str], parser: ConfigParser | None = None) -> None:
    """Build parts of the running configuration; MONAI would bury refused arguments in its tracebacks.

    The parts are kept: a later reference to the same id gets the same object.

    Args:
        components: ids, such as "network_def", in the order of building.
        parser: the running configuration's; None looks for it.

    Raises:
        SystemExit: a part could not be built from its arguments; the message names the id. Or the part ended the run.
        Exception: the same in Python's development mode (``python -X dev``), to see where.
    """
    parser = running_parser(parser)
    for component in components:
        try:
            with full_disk_named_once():
                parser.get_parsed_content(component)
        except Exception as error:  # MONAI wraps most of them
            if sys.flags.dev_mode:
                raise
            if is_disk_full(error):
                raise SystemExit(
                    "No space is left to write to, before the first step. Make space, then give the same command again."
                ) from error
            logger.debug("refused setting", exc_info=True)
            raise SystemExit(f"{component.replace('::', '#')}: {_refusal(error)}") from error


def check_preprocessing(preprocessing: Mapping[str, Any]) -> None:
    """Check the sizes and spacing to which images are cropped and resampled.

    Args:
        preprocessing: with ``spatial_dims``, ``patch_size`` (one size per axis of the network), ``image_size`` (one to
            three sizes, or None), ``spacing`` (one to three numbers in mm, or None), ``intensity_window`` (lowest and
            highest intensity, or None) and ``intensity_statistics`` (mean and deviation, or None).

    Raises:
        ValueError: a value has the wrong type, sign or length.
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
    image_size, spacing = preprocessing["image_size"], preprocessing["spacing"]
    if image_size is not None and not (_are_positive(image_size, int) and 1 <= len(image_size) <= 3):
        raise ValueError(f"image_size must hold one to three sizes in voxels, or be None, got {image_size!r}.")
    if spacing is not None and not (_are_positive(spacing, (int, float)) and 1 <= len(spacing) <= 3):
        raise ValueError(f"spacing must hold one to three voxel sizes in mm, or be None, got {spacing!r}.")
    window = preprocessing.get("intensity_window")
    if window is not None and not (_are_numbers(window) and len(window) == 2 and window[0] < window[1]):
        raise ValueError(f"intensity_window must hold two rising intensities, or be None, got {window!r}.")
    statistics = preprocessing.get("intensity_statistics")
    if statistics is None:
        return
    if not (_are_numbers(statistics) and len(statistics) == 2 and statistics[1] > 0):
        raise ValueError(f"intensity_statistics must hold a mean and a deviation, or be None, got {statistics!r}.")
    if window is None:
        raise ValueError("intensity_statistics are of intensities within a window: give intensity_window as well.")


def check_recorded(record: Mapping[str, Any], path: Path) -> None:
    """Check the values of a ``model.json`` from which inference and evaluation build their transforms.

    Args:
        record: with "preprocessing", "labels" and "network".
        path: of the file, for the message.

    Raises:
        ValueError: a value is missing, or has the wrong type or range.
    """
    preprocessing, labels, network = record["preprocessing"], record["labels"], record["network"]
    lacking = [key for key in _RECORDED if key not in preprocessing]
    if lacking:
        raise ValueError(f"{path}: key 'preprocessing' lacks '{lacking[0]}'; copy the file again or train again.")
    try:
        check_preprocessing(preprocessing)
        refusals = check_values(
            {key: preprocessing[key] for key in ("in_channels", "normalize_nonzero") if key in preprocessing}
        )
        if refusals:
            raise ValueError(refusals[0].removeprefix("--"))
        data.check_orientation(preprocessing.get("orientation"))
        data.name_slice_axis(preprocessing["slice_axis"], preprocessing.get("orientation"))
        if sorted(labels) != list(range(max(2, len(labels)))):
            raise ValueError(f"labels must name the classes 0, 1, ... without a gap, two at least, got {list(labels)}.")
        if not isinstance(record.get("info", {}), Mapping) or not isinstance(record.get("postprocessing", {}), Mapping):
            raise ValueError("info and postprocessing must be JSON objects.")
        _check_quality(record.get("quality", {}))
        for key, count in (("out_channels", len(labels)), ("in_channels", preprocessing["in_channels"])):
            if network.get(key, count) != count:
                raise ValueError(f"{key} of 'network' must be {count}, got {network[key]!r}.")
    except ValueError as error:
        raise ValueError(f"{path}: {error} Copy the file again or train again.") from error


def _check_quality(section: Any) -> None:
    """Refuse a line that estimates nothing; a section without one says why, and records of 0.9 and earlier lack it."""
    if not isinstance(section, Mapping):
        raise ValueError("quality must be a JSON object.")
    line = {} if not section or "none" in section else section
    # records of 0.10.2 and earlier have no error
    for key in ("slope", "intercept", "correlation", "cases", *line.keys() & {"error"}) if line else ():
        value = line.get(key)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{key} of 'quality' must be a number, got {value!r}.")


def check_given(values: Mapping[str, Any]) -> None:
    """Check the sizes that a user gives before others are planned from them.

    Args:
        values: any of those of :func:`check_preprocessing`, "labeled_batch_size" and "unlabeled_batch_size", "channels"
            and "strides".

    Raises:
        ValueError: a value has the wrong type, sign or length.
    """
    patch = values.get("patch_size")
    dims = len(patch) if isinstance(patch, list | tuple) and len(patch) in (2, 3) else 2
    asked = values.get("spatial_dims", dims)
    usual = {"spatial_dims": dims, "image_size": None, "spacing": None, "intensity_window": None}
    check_preprocessing({**usual, "patch_size": [1] * (asked if asked in (2, 3) else dims), **values})
    for name in ("labeled_batch_size", "unlabeled_batch_size"):
        if name in values and not _are_positive([values[name]], int):
            raise ValueError(f"{name} must be a positive whole number, got {values[name]!r}.")
    for name in ("channels", "reconstruction_channels"):
        widths = values.get(name, [1])
        if not (widths and _are_positive(widths, int)) and not (widths is None and name != "channels"):
            raise ValueError(f"network_def#{name} must hold a width for each level, got {widths!r}.")
    strides = values.get("strides", [])
    if not isinstance(strides, list | tuple) or not all(
        _are_positive(stride if isinstance(stride, list | tuple) else [stride], int) for stride in strides
    ):
        raise ValueError(f"network_def#strides must hold one entry between each two levels, got {strides!r}.")


def check_device(device: str) -> None:
    """Check that the device exists.

    Args:
        device: such as "cpu", "cuda" or "cuda:1".

    Raises:
        ValueError: the name is unknown to PyTorch, or PyTorch cannot compute on it here.
    """
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}.") from error
    count = torch.cuda.device_count()
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        raise ValueError(f"device is {device!r}, but PyTorch finds {count} CUDA devices; use 'cpu' or another index.")
    try:
        torch.ones(1, device=chosen).item()
    except Exception as error:  # each device type has errors of its own
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device is {device!r}, on which PyTorch cannot compute here ({reason}); use 'cpu'."
        ) from error


def _are_positive(values: Any, kind: type[int] | tuple[type[int], type[float]]) -> bool:
    return isinstance(values, list | tuple) and all(
        isinstance(value, kind) and not isinstance(value, bool) and value > 0 for value in values
    )


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )


def _refusal(error: BaseException) -> str:
    """The outermost error below MONAI's own that says what to do, whose cause is its detail; or else the innermost."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
        # an overlay may leave arguments of another class
        if isinstance(cause, OptionalImportError):
            return _missing_package(str(cause))
        if isinstance(cause, ValueError | OSError) or "unexpected keyword argument" in str(cause):
            return str(cause)
    reason = (str(cause).strip().splitlines() or [""])[0]
    return (
        f"it cannot be built from its keys ({type(cause).__name__}: {reason}). Correct the keys that you have given; "
        "python -X dev shows where it fails."
    )


def _missing_package(text: str) -> str:
    """MONAI's first line, such as "import pandas (No module named 'pandas').", and what to do."""
    reason = text.strip().splitlines()[0]
    named = re.search(r"No module named '([^'.]+)", reason) or re.search(r"(?:import|from) ([^ .]+)", reason)
    package = named[1] if named else "the package"
    if package == "mlflow":
        return f"{reason} pip install mlflow, for --tracking mlflow, or leave it out."
    return f"{reason} Install {package}, or leave out what needs it."
