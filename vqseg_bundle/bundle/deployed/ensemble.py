"""Several trained models used together: the first gives network and preprocessing, the others must fit it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqseg_bundle.bundle.records.found_weights import find_checkpoint
from vqseg_bundle.bundle.records.model_record import (
    check_compatible,
    check_files_hold,
    load_model_record,
    load_weights,
)
from vqseg_bundle.bundle.settings.clean_exit import exit_cleanly
from vqseg_bundle.networks import VQNetwork, build_network

__all__ = ["load_further_networks", "split_checkpoints"]


def split_checkpoints(checkpoint: str | Path | None) -> list[str | None]:
    """The weights that a key names.

    Args:
        checkpoint: one file, or several with commas between them (a file with a comma in its name is one); or None.

    Returns:
        At least one entry, the first model's; None where none is named.
    """
    if checkpoint is None:
        return [None]
    text = str(checkpoint)  # from Python it may be a Path
    if "," not in text or Path(text).is_file():
        return [text]
    return [part.strip() for part in text.split(",")]


def load_further_networks(checkpoint: str | Path | None, record: Mapping[str, Any], device: str) -> list[VQNetwork]:
    """The networks of all models behind the first, for :class:`~vqseg_bundle.engines.AveragedInferer`.

    They may have other layers than the first one's, but must have been trained for the same labels, with the same
    preprocessing.

    Args:
        checkpoint: see :func:`split_checkpoints`.
        record: of the first model.
        device: where they are to run.

    Raises:
        SystemExit: a file is missing, is unusable, or does not fit; the message names it.
    """
    return [exit_cleanly(_load, part, record).to(device) for part in split_checkpoints(checkpoint)[1:]]


def _load(checkpoint: str, record: Mapping[str, Any]) -> VQNetwork:
    path = find_checkpoint(checkpoint, None, "")
    other = load_model_record(path)
    preprocessing = {"intensity_window": None, **other["preprocessing"]}
    try:
        check_files_hold(other, record["info"].get("channel_names", []))
        check_compatible({**record, "labels": record["labels"]}, labels=other["labels"], preprocessing=preprocessing)
    except ValueError as error:
        raise ValueError(f"checkpoint: {path} cannot be averaged with {record['checkpoint']}. {error}") from error
    network = build_network({**other["network"], "reconstruction": False})
    load_weights(network, path)
    return network.eval()
