"""Foundation-model features of the training's slices, computed before the first step and sampled for every view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from monai.bundle import ConfigParser

from vqseg_bundle import data, networks
from vqseg_bundle.bundle.settings.clean_exit import exit_cleanly
from vqseg_bundle.bundle.settings.running_workflow import running_parser
from vqseg_bundle.common import process_count, process_rank, wait_for_all

__all__ = ["cache_foundation_features"]

T = TypeVar("T")

#: configuration ids that determine, with the preprocessing record, the content of a slice
PREPROCESSING_IDS = ("load_image", "volume_transforms")
#: ids of a view's spatial transforms, in order
SPATIAL_IDS = ("labeled_crop", "unlabeled_crop", "geometric_transforms")


def cache_foundation_features(
    foundation_features: str,
    cases: Sequence[Mapping[str, str]],
    transform: Callable[[Mapping[str, str]], Mapping[str, Any]],
    preprocessing: Mapping[str, Any],
    foundation: networks.FoundationModel,
    name: str,
    weights: str | None,
    device: str,
    folder: str,
    limit_gb: float,
    num_workers: int = 0,
    batch_size: int = 8,
    parser: ConfigParser | None = None,
) -> data.FoundationFeatureStore:
    """Compute the missing features of all training slices; several processes share the work.

    Slices are fed at a size where one patch covers the same tissue as in a view, capped at the larger of native and
    view size. Random states are preserved, so that a training draws the same views with and without this.

    Args:
        foundation_features: "cached"; anything else is refused, since "exact" does not need this.
        cases: labelled and unlabelled training cases, with "image".
        transform: the deterministic transforms of the image.
        preprocessing: their record, with ``patch_size``.
        foundation: the model for views.
        name: its name.
        weights: its checkpoint file; None for the downloaded one.
        device: the device.
        folder: folder of the files, which runs may share.
        limit_gb: maximum size of this run's files, in GB of 10^9 bytes.
        num_workers: processes that read images ahead.
        batch_size: slices per call of the model.
        parser: of the running configuration; None looks for it.

    Raises:
        SystemExit: the mode is unknown, the limit is not positive or too low, slices are too large for the model,
            spatial transforms omit the coordinates, or the folder is not writable; the message says which.
    """
    parser = running_parser(parser)
    exit_cleanly(_check_settings, foundation_features, limit_gb, parser)
    token = foundation.image_size // foundation.grid[0]
    patch = preprocessing["patch_size"]
    # a view's own input may be larger than the native one
    largest = max(networks.foundation.FOUNDATION_SPECS[name].image_size, foundation.image_size)
    rule = data.SliceGridRule((patch[0], patch[1]), foundation.grid, largest // token)
    made_by = {
        "preprocessing": dict(preprocessing),
        "transforms": {key: parser.get(key) for key in PREPROCESSING_IDS},
        "model": name,
        "weights": data.content_digest(weights) if weights else None,
    }
    images = [case["image"] for case in cases]
    store = exit_cleanly(_in_folder, data.open_feature_store, Path(folder).expanduser(), images, rule, made_by)
    rank, world = process_rank(), process_count()
    build = partial(_build_model, name, weights, torch.device(device), token)
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        exit_cleanly(
            _in_folder,
            data.compute_slice_features,
            *(store, transform, build, foundation.channels, limit_gb, rank, world, num_workers, batch_size),
        )
    if world > 1:
        wait_for_all()
        exit_cleanly(_require_shared, store)
    return store


def _check_settings(foundation_features: str, limit_gb: float, parser: ConfigParser) -> None:
    if foundation_features != "cached":
        raise ValueError(f"foundation_features must be 'cached' or 'exact', got {foundation_features!r}.")
    if not limit_gb > 0:
        raise ValueError(f"foundation_feature_gb must be positive, got {limit_gb!r}.")
    _require_coordinates(parser)


def _in_folder(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that writes to the folder of features; a full or read-only disk gives a message to the user."""
    try:
        return function(*arguments)
    except OSError as error:
        raise ValueError(f"foundation_feature_dir: {error}. Name a folder that can be written to.") from error


def _build_model(name: str, weights: str | None, device: torch.device, token: int, side: int) -> torch.nn.Module:
    model = networks.build_foundation_model(name, weights, side * token)
    if model is None:
        raise ValueError(f"foundation_model must name a model, got '{name}'.")
    return model.to(device)


def _require_coordinates(parser: ConfigParser) -> None:
    """Refuse geometric transforms that would transform the image without its coordinates."""
    for part in SPATIAL_IDS:
        steps = parser.get(part)
        # the other crop's name is for the same crop
        for index, transform in enumerate(steps if isinstance(steps, list) else []):
            if transform["_target_"].endswith(data.JoinTokenCoordinatesd.__name__):
                return
            keys = parser.get_parsed_content(f"{part}#{index}#keys")
            keys = [keys] if isinstance(keys, str) else list(keys)
            lacking = [key for key in data.COORDINATE_KEYS if key not in keys]
            if "image" in keys and lacking:
                raise ValueError(
                    f"{part}: the keys of {transform['_target_']} name image without {', '.join(lacking)}, which tell "
                    "where a view lies. Before JoinTokenCoordinatesd name them, too, or set foundation_features "
                    "'exact'."
                )
    raise ValueError(
        "geometric_transforms lacks JoinTokenCoordinatesd: put it first, as configs/train.json does, or set "
        "foundation_features 'exact'."
    )


def _require_shared(store: data.FoundationFeatureStore) -> None:
    if data.missing_images(store):
        raise ValueError(
            f"foundation_feature_dir: a process does not see in {store.folder} what another one wrote there. Name a "
            "folder that all machines share, or use foundation_features 'exact'."
        )
