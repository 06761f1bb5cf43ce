"""A finished training with the feature adapter, rebuilt from its output folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from scripts.alignment.views import ViewFeatures
from vqseg_bundle.bundle import load_model_record
from vqseg_bundle.data import Cohort
from vqseg_bundle.layers import PostVQFeatureAdapter
from vqseg_bundle.losses import PatchInfoNCELoss

__all__ = ["NETWORKS", "TRAINED", "UNTRAINED", "TrainedRun", "open_run"]

#: networks whose post-VQ features are measured
NETWORKS = ("student", "teacher")
#: names of the two adapters
TRAINED, UNTRAINED = "trained adapter", "untrained adapter"


@dataclass(frozen=True)
class TrainedRun:
    """A training to be measured.

    Attributes:
        folder: its output folder.
        iterations: completed steps.
        planned_iterations: planned steps.
        foundation_model: name of the foundation model.
        preprocess: from ``{"image": path}`` to "image" ``(C, H, W, D)``.
        features: adapted and foundation features of a volume.
        alignment_loss: the training's loss.
        cohort: the cases.
    """

    folder: Path
    iterations: int
    planned_iterations: int
    foundation_model: str
    preprocess: Callable[[Mapping[str, str]], Mapping[str, Any]]
    features: ViewFeatures
    alignment_loss: PatchInfoNCELoss
    cohort: Cohort


def open_run(folder: Path, overrides: Mapping[str, str | None], network: str, device: str, seed: int) -> TrainedRun:
    """Rebuild a training's network, adapter, foundation model and preprocessing.

    Args:
        folder: the training's output folder: ``config.json``, ``model.json`` and ``resume.pt`` are read.
        overrides: dataset_dir, datalist or foundation_weights; None keeps the training's.
        network: "student" or "teacher"; the adapter is the student's, the teacher has none.
        device: where to compute.
        seed: seed of the untrained adapter.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file does not have the expected content, or the training had no adapter.
    """
    config = _read_config(folder / "config.json")
    model_name = config.get("foundation_model", "none")
    if model_name == "none":
        raise ValueError(
            f"{folder / 'config.json'}: foundation_model is 'none': this training had no adapter. Train with "
            "configs/pfa.json, then measure."
        )
    record = load_model_record(folder / "model.pt")
    # everything else is kept from the training, expressions included
    config |= {"device": device, "amp": False, "labels": {str(key): name for key, name in record["labels"].items()}}
    config |= {"label_values": {}, "allow_no_labeled": True}  # only images are read
    # the training's, regardless of the cases now; runs of 0.6 and earlier had no orientation
    config["slice_axis"] = record["preprocessing"]["slice_axis"]
    config["trained_orientation"] = record["preprocessing"].get("orientation")
    config |= {key: value for key, value in overrides.items() if value is not None}
    part = ConfigParser(config).get_parsed_content
    module, teacher = part("train#trainer#network"), part("teacher")
    state = _read_state(folder / "resume.pt")
    try:
        module.load_state_dict(state["student"])
        teacher.load_state_dict(state["teacher"])
    except RuntimeError as error:
        raise ValueError(
            f"{folder / 'resume.pt'} does not fit the network of config.json beside it; both must be of one training "
            f"({str(error).splitlines()[0]})."
        ) from error
    features = ViewFeatures(
        teacher.module if network == "teacher" else module.network,
        {TRAINED: module.adapter, UNTRAINED: _untrained(module.adapter, seed).to(device)},
        part("foundation"),
        part("train#trainer#foundation_depth"),
        part("patch_size"),
    )
    return TrainedRun(
        folder=folder,
        iterations=int(state["engine"]["iteration"]),
        planned_iterations=int(state["engine"]["total_iterations"]),
        foundation_model=model_name,
        preprocess=part("validate#preprocessing"),
        features=features,
        alignment_loss=part("loss").alignment_loss,
        cohort=part("cohort"),
    )


def _untrained(adapter: PostVQFeatureAdapter, seed: int) -> PostVQFeatureAdapter:
    """An adapter of the same sizes at its initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PostVQFeatureAdapter(adapter.spatial_dims, adapter.in_channels, adapter.out_channels).eval()


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: --run must name the output folder of a training.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); copy it again or train again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(config).__name__}.")
    return config


def _read_state(path: Path, wanted: Sequence[str] = ("student", "teacher", "engine")) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found: the adapter is only in the training's own checkpoint, which is written after every "
            "epoch. Copy it from the training's output folder, or train again."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways
        raise ValueError(f"{path}: cannot be read ({type(error).__name__}); copy it again or train again.") from error
    missing = [key for key in wanted if key not in state] if isinstance(state, dict) else list(wanted)
    if missing:
        raise ValueError(f"{path}: expected a training's checkpoint, found one without {', '.join(missing)}.")
    return state
