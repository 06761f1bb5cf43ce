"""The bundle's training step with its data pipeline, with and without feature adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.transforms import Compose

from scripts.benchmark.bundle_step import CLASSES, bundle_parser, trainer_step
from vqseg_bundle.data import FoundationFeatureStore, SliceGridRule
from vqseg_bundle.data.features.foundation_store import save_features
from vqseg_bundle.networks.foundation import FOUNDATION_SPECS

__all__ = ["MODEL", "MODES", "prepare_adapter_step"]

#: name of the foundation model
MODEL = "dinov2_vits14"
#: how the adapter gets its targets: there is no adapter, the model runs on every view, or its features are sampled
MODES = ("none", "exact", "cached")

_SLICES = 10
_CASE = "case"
_VIEW_TRANSFORMS = ("coordinate_transforms", "geometric_transforms", "feature_transforms", "strong_transforms")


def prepare_adapter_step(
    overrides: Mapping[str, Any], device: str, mode: str, weights: str | None
) -> Callable[[], None]:
    """A trainer on random views of a volume in memory; each call of what is returned is one iteration, views included.

    Args:
        overrides: value by id; "patch_size" is the size of the volume's slices.
        device: "cpu" or "cuda".
        mode: one of :data:`MODES`.
        weights: the model's checkpoint; None takes random weights.

    Raises:
        ValueError: another mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got '{mode}'.")
    torch.manual_seed(0)
    if mode == "none":
        return _step(bundle_parser(("train.json",), {"device": device, **overrides}), device)
    folder = TemporaryDirectory()
    with _weight_file(weights) as file:
        model = {"foundation_model": MODEL, "foundation_weights": file}
        parser = bundle_parser(("train.json", "pfa.json"), {"device": device, **model, **overrides})
        if mode == "cached":
            parser["foundation_cache"] = _store(Path(folder.name), parser)
        return _step(parser, device, folder)


def _step(parser: ConfigParser, device: str, folder: TemporaryDirectory | None = None) -> Callable[[], None]:
    transform = Compose([each for key in _VIEW_TRANSFORMS for each in parser.get_parsed_content(key)])
    transform.set_random_state(seed=0)
    volume = _volume(parser["patch_size"])
    unlabeled = {key: value for key, value in volume.items() if key != "label"}
    batches = [
        _Batches(each, transform, parser[size], folder)
        for each, size in ((volume, "labeled_batch_size"), (unlabeled, "unlabeled_batch_size"))
    ]
    return trainer_step(parser, device, *batches)


class _Batches:
    """Random views of one volume without end; the folder of its features is there as long as this is."""

    def __init__(
        self, volume: Mapping[str, Any], transform: Compose, size: int, folder: TemporaryDirectory | None
    ) -> None:
        self.volume = volume
        self.transform = transform
        self.size = size
        self.folder = folder

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        while True:
            yield list_data_collate([self.transform(dict(self.volume)) for _ in range(self.size)])


def _volume(patch: list[int]) -> dict[str, MetaTensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (1, *patch, _SLICES)
    meta = {"filename_or_obj": _CASE}
    image = MetaTensor(torch.randn(shape, generator=generator), meta=meta)
    return {"image": image, "label": MetaTensor(torch.randint(CLASSES, shape, generator=generator).float(), meta=meta)}


def _store(folder: Path, parser: ConfigParser) -> FoundationFeatureStore:
    """Random features of the volume's slices on disk, as the training keeps them."""
    spec, patch = FOUNDATION_SPECS[MODEL], parser["patch_size"]
    grid = spec.grid(spec.input_size(parser["foundation_image_size"]))
    rule = SliceGridRule((patch[0], patch[1]), grid, spec.image_size // spec.patch_size)
    store = FoundationFeatureStore(folder, {_CASE: "features.npy"}, rule)
    shape = (_SLICES, spec.channels, *rule.choose(patch).tokens)
    save_features(store.path(_CASE), np.random.default_rng(0).standard_normal(shape))
    return store


@contextmanager
def _weight_file(weights: str | None) -> Iterator[str]:
    """The file given, or one of random weights that is there for the block alone."""
    if weights is not None:
        yield weights
        return
    with TemporaryDirectory() as folder:
        file = Path(folder) / "random.pth"
        model = timm.create_model(FOUNDATION_SPECS[MODEL].backbone, pretrained=False, num_classes=0)
        torch.save(model.state_dict(), file)
        yield str(file)
