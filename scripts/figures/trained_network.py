"""A trained network with the preprocessing that it was trained with, for pictures of what it does to a case."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from scripts.figures.slice_view import SliceView, view_slices
from vqseg_bundle.bundle import build_deployed_network, load_model_record, load_weights
from vqseg_bundle.layers import VectorQuantizer
from vqseg_bundle.networks import VQNetwork

__all__ = ["Case", "TrainedNetwork", "display_slice", "load_case", "open_trained"]

# readers of formats that are not asked for say at every start what they lack
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")

_CONFIGS = Path(__file__).parents[2] / "configs"


class TrainedNetwork(NamedTuple):
    """A network and what feeds it.

    Attributes:
        network: in eval mode.
        quantizer: the network's.
        labels: class names by index, background included.
        patch_size: what it was trained on.
        preprocess: takes ``{"image": path}`` and, where there is one, "label".
        inferer: cuts a volume ``(1, C, *S)`` as evaluation does.
    """

    network: VQNetwork
    quantizer: VectorQuantizer
    labels: dict[int, str]
    patch_size: list[int]
    preprocess: Callable[[Mapping[str, str]], Mapping[str, Any]]
    inferer: Inferer


class Case(NamedTuple):
    """A volume on the network's grid; of a 2D network, the last axis is the one that it is sliced along.

    Attributes:
        name: the file's.
        image: ``(C, *S)``, float32.
        label: class indices ``(*S)``, int64, or None.
        view: how its slices are shown.
    """

    name: str
    image: Tensor
    label: Tensor | None
    view: SliceView


def open_trained(checkpoint: Path) -> TrainedNetwork:
    """Rebuild a trained network from its weights and the record beside them.

    Args:
        checkpoint: ``OUT/model.pt``.

    Raises:
        FileNotFoundError: there are no weights or no record.
        ValueError: weights or record cannot be used, or the network has no quantiser.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"{checkpoint} not found: name the model.pt of a finished training.")
    record: dict[str, Any] = {**load_model_record(checkpoint), "checkpoint": str(checkpoint)}
    network = build_deployed_network(record).eval()
    if network.quantizer is None:
        raise ValueError(f"{checkpoint}: this network has no codebook (num_embeddings is None); train one that has.")
    load_weights(network, checkpoint)
    config = ConfigParser.load_config_files([str(_CONFIGS / name) for name in ("train.json", "evaluate.json")])
    config |= {"model_record": record, "network_def": network, "device": "cpu", "amp": False}
    config["label_values"] = f"$dict({list(record['label_values'].items())})"
    config["chosen_orientation"] = "@trained_orientation"  # without one, the one volume stays as it is stored
    config["picture_transforms"] = {
        "_target_": "Compose",
        "transforms": "$@load_transforms + @image_transforms + @label_transforms",
    }
    part = ConfigParser(config).get_parsed_content
    return TrainedNetwork(
        network,
        network.quantizer,
        record["labels"],
        part("patch_size"),
        part("picture_transforms"),
        part("validate#inferer"),
    )


def load_case(trained: TrainedNetwork, image: Path, label: Path | None) -> Case:
    """Load and preprocess a volume as evaluation does, and its label alike.

    Args:
        trained: the network.
        image: the volume.
        label: its label, or None.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file cannot be read, or the two do not fit each other or the network.
    """
    paths = {"image": image} | ({"label": label} if label is not None else {})
    for key, path in paths.items():
        if not path.exists():
            raise FileNotFoundError(f"--{key} {path} not found: name a volume.")
    try:
        loaded = trained.preprocess({key: str(path) for key, path in paths.items()})
    except (RuntimeError, OSError, ValueError) as error:
        while error.__cause__ is not None:
            error = error.__cause__  # type: ignore[assignment]
        raise ValueError(f"{' with '.join(map(str, paths.values()))}: cannot be loaded ({error}).") from error
    image_loaded: MetaTensor = loaded["image"]
    volume, view = image_loaded.as_tensor().float(), view_slices(image_loaded)
    channels = trained.network.arguments["in_channels"]
    if len(volume) != channels:
        raise ValueError(f"--image {image}: expected {channels} channels as in training, found {len(volume)}.")
    if label is None:
        return Case(image.name, volume, None, view)
    classes = torch.as_tensor(loaded["label"])[0].long()
    if classes.shape != volume.shape[1:]:
        raise ValueError(
            f"--label {label}: expected the image's size {list(volume.shape[1:])} on the network's grid, found "
            f"{list(classes.shape)}; give the label of this image."
        )
    if classes.max() >= len(trained.labels):
        raise ValueError(
            f"--label {label}: expected classes 0 to {len(trained.labels) - 1}, found {int(classes.max())}."
        )
    return Case(image.name, volume, classes, view)


def display_slice(case: Case, number: int | None) -> int:
    """The slice to show, along the last axis: the one asked for, else the one with most label, else the middle.

    Args:
        case: the volume.
        number: from 0, or None.

    Raises:
        ValueError: there is no such slice.
    """
    count = case.image.shape[-1]
    if number is not None:
        if not 0 <= number < count:
            raise ValueError(f"--slice must lie in 0 to {count - 1} for {case.name}, got {number}.")
        return number
    if case.label is not None and case.label.any():
        return int((case.label > 0).flatten(0, -2).sum(dim=0).argmax())
    return count // 2
