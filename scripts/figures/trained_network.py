"""A trained network with its preprocessing, for pictures of its effect on a case."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from vqseg_bundle.bundle import build_deployed_network, load_model_record, load_weights
from vqseg_bundle.handlers import Upright, find_upright
from vqseg_bundle.layers import VectorQuantizer
from vqseg_bundle.networks import VQNetwork

__all__ = ["Case", "SliceView", "TrainedNetwork", "display_slice", "load_case", "open_trained", "view_slices"]

# readers of unused formats report at every start what they lack
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")

_CONFIGS = Path(__file__).parents[2] / "configs"


class TrainedNetwork(NamedTuple):
    """A network with its preprocessing.

    Attributes:
        network: in eval mode.
        quantizer: the network's.
        labels: class names by index, background included.
        patch_size: size of its training patches.
        preprocess: takes ``{"image": path}`` and optionally "label".
        inferer: divides a volume ``(1, C, *S)`` as evaluation does.
    """

    network: VQNetwork
    quantizer: VectorQuantizer
    labels: dict[int, str]
    patch_size: list[int]
    preprocess: Callable[[Mapping[str, str]], Mapping[str, Any]]
    inferer: Inferer


class SliceView(NamedTuple):
    """The layout of every slice of a volume.

    Attributes:
        inside: the region of a slice that is image, not padding.
        upright: its orientation.
    """

    inside: tuple[slice, slice]
    upright: Upright

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width."""
        return self.upright.sizes[0] / self.upright.sizes[1]

    def show(self, array: np.ndarray) -> np.ndarray:
        """Rows downwards, columns to the right.

        Args:
            array: ``(H, W)`` or ``(H, W, 3)``, a slice along the volume's last axis.
        """
        return self.upright.turn(array[self.inside])

    def within(self, starts: Sequence[int], lengths: Sequence[int]) -> SliceView:
        """The view of a region of the slices.

        Args:
            starts: start of the region along both axes.
            lengths: its size.
        """
        cuts = [
            slice(max(0, known.start - start), min(length, known.stop - start))
            for known, start, length in zip(self.inside, starts, lengths, strict=False)
        ]
        return SliceView((cuts[0], cuts[1]), self.upright)


class Case(NamedTuple):
    """A volume on the network's grid; for a 2D network, it is sliced along the last axis.

    Attributes:
        name: name of the file.
        image: ``(C, *S)``, float32.
        label: class indices ``(*S)``, int64, or None.
        view: layout of its slices.
    """

    name: str
    image: Tensor
    label: Tensor | None
    view: SliceView


def open_trained(checkpoint: Path) -> TrainedNetwork:
    """Rebuild a trained network from its weights and their record.

    Raises:
        FileNotFoundError: the weights or the record are missing.
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
    config["label_padding"] = 0
    config["chosen_orientation"] = "@trained_orientation"  # without one, the single volume stays as stored
    config["picture_transforms"] = {
        "_target_": "Compose",
        "transforms": "$@load_image + @load_label + @volume_transforms",
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
    """Load and preprocess a volume and its label as evaluation does.

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
    """The slice to show, along the last axis: the requested one, otherwise the one with most label, otherwise the
    middle.

    Raises:
        ValueError: the slice does not exist.
    """
    count = case.image.shape[-1]
    if number is not None:
        if not 0 <= number < count:
            raise ValueError(f"--slice must lie in 0 to {count - 1} for {case.name}, got {number}.")
        return number
    if case.label is not None and case.label.any():
        return int((case.label > 0).flatten(0, -2).sum(dim=0).argmax())
    return count // 2


def view_slices(volume: MetaTensor) -> SliceView:
    """The view of slices along the last axis.

    Args:
        volume: ``(C, *S)``, loaded and preprocessed by MONAI's transforms.
    """
    oriented = not np.allclose(np.asarray(volume.meta["original_affine"]), np.eye(4))
    single = volume.shape[-1] == 1
    affine = volume.affine.cpu().numpy().astype(np.float64)
    first, second = _padding(volume)
    upright = find_upright(affine, volume.ndim - 2, oriented, picture=single)
    return SliceView((first, second), upright)


def _padding(volume: MetaTensor) -> list[slice]:
    """The region of the first two axes that is image: the preprocessing pads last."""
    last = volume.applied_operations[-1] if volume.applied_operations else {}
    widths = last["extra_info"]["padded"] if last.get("class") == "SpatialPad" else ((0, 0),) * volume.ndim
    return [slice(before, size - after) for (before, after), size in zip(widths[1:3], volume.shape[1:3], strict=True)]
