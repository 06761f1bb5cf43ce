"""Reading the weights of foundation models, with errors that name the file and the remedy.

Files are read by :func:`timm.models.load_state_dict` and :func:`torch.load` with ``weights_only``: no code in a file is
run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from zipfile import ZipFile, is_zipfile

import torch
from timm.models import load_state_dict, load_state_dict_from_hf
from torch import Tensor, nn

from vqseg_bundle.networks.foundation.specification import FoundationSpec

__all__ = ["ENCODER_KEY", "FOUNDATION_KEY", "foreign_checkpoint", "load_into", "read_state"]

FOUNDATION_KEY, ENCODER_KEY = "foundation_weights", "encoder_weights"
_WITHOUT = {
    FOUNDATION_KEY: "turn the feature adapter off by foundation_model 'none'",
    ENCODER_KEY: "start from random weights by --network_def#pretrained false",
}


def read_state(spec: FoundationSpec, weights: str | Path | None, key: str = FOUNDATION_KEY) -> dict[str, Tensor]:
    """The tensors of a model's weight file, under the file's own names, on the CPU.

    Args:
        spec: the model.
        weights: a file of :func:`torch.save` or safetensors, with the weights possibly under "model" or "state_dict";
            None downloads the file, or takes it from the hub's cache.
        key: the configuration's key for ``weights``, for messages.

    Raises:
        FileNotFoundError: there is no such file, or the download failed.
        ValueError: the file cannot be read, or contains something other than tensors.
    """
    state = _download(spec, key) if weights is None else _read(spec, Path(weights), key)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise foreign_checkpoint(spec, weights, "It holds something other than tensors under names.", key)
    return state


def load_into(
    backbone: nn.Module,
    state: Mapping[str, Tensor],
    spec: FoundationSpec,
    weights: str | Path | None,
    assign: bool = False,
    key: str = FOUNDATION_KEY,
) -> None:
    """Fill ``backbone`` with exactly the tensors of ``state``.

    Args:
        backbone: the model to fill.
        state: tensors under the model's own names.
        spec: the model, for messages.
        weights: where ``state`` is from, for messages.
        assign: take the tensors themselves rather than copies, as a model on the meta device needs.
        key: the configuration's key for ``weights``, for messages.

    Raises:
        ValueError: a name is missing or unexpected, or a shape differs.
    """
    try:
        backbone.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        raise foreign_checkpoint(spec, weights, str(error), key) from error


def foreign_checkpoint(
    spec: FoundationSpec, weights: str | Path | None, reason: str, key: str = FOUNDATION_KEY
) -> ValueError:
    """The error for a checkpoint that is not one of ``spec``; the other arguments go into its message."""
    origin = "the download" if weights is None else f"'{weights}'"
    return ValueError(
        f"{key}: {origin} is not a checkpoint of {spec.name}. {_remedy(spec, key)} {shorten(reason, 300)}"
    )


def _read(spec: FoundationSpec, path: Path, key: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{key}: there is no file '{path}'. {_remedy(spec, key)}")
    try:
        return load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # damaged and foreign files fail in many ways, depending on the format
        kind = "a TorchScript archive, which is a program" if _is_torchscript(path) else "damaged or not a checkpoint"
        raise ValueError(f"{key}: '{path}' is {kind} ({type(error).__name__}). {_remedy(spec, key)}") from error


def _is_torchscript(path: Path) -> bool:
    if not is_zipfile(path):
        return False
    with ZipFile(path) as archive:
        return any(Path(name).name == "constants.pkl" for name in archive.namelist())


def _download(spec: FoundationSpec, key: str) -> dict[str, Tensor]:
    try:
        if spec.hub is not None:
            return load_state_dict_from_hf(*spec.hub, weights_only=True)
        if spec.url is not None:
            return torch.hub.load_state_dict_from_url(spec.url, map_location="cpu", weights_only=True)
    except Exception as error:  # the hub client, its transport and the file format each have their own errors
        raise FileNotFoundError(
            f"No {key} file is given, and the weights of {spec.name} could not be downloaded "
            f"({type(error).__name__}). {_remedy(spec, key)}"
        ) from error
    raise FileNotFoundError(
        f"No {key} file is given, and {spec.name} can only be downloaded by hand. {_remedy(spec, key)}"
    )


def _remedy(spec: FoundationSpec, key: str) -> str:
    """What the user can do about missing or wrong weights."""
    return f"Download {spec.source} and pass the file by the key {key}, or {_WITHOUT[key]}."
