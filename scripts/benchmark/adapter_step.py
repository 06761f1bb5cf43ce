"""The feature adapter's share of a training step, data pipeline included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
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

from scripts.benchmark.contenders import Case, Comparison, Contender, Plan
from scripts.benchmark.steps import CLASSES, bundle_parser, image_setting, trainer_step
from vqseg_bundle.data import FoundationFeatureStore, SliceGridRule
from vqseg_bundle.data.features.slice_features import save_features
from vqseg_bundle.networks.foundation import FOUNDATION_SPECS

__all__ = ["ADAPTER", "MODES", "prepare_adapter_step"]

#: source of the adapter's targets: no adapter, the model on every view, or sampled features
MODES = {
    "none": "ours, no adapter",
    "exact": "ours, features of every view",
    "cached": "ours, features once a slice",
}

_MODEL = "dinov2_vits14"
_SLICES = 10
_CASE = "case"
_VIEW_TRANSFORMS = (
    "coordinate_transforms",
    "unlabeled_crop",
    "geometric_transforms",
    "feature_transforms",
    "strong_transforms",
)


def prepare_adapter_step(overrides: Mapping[str, Any], device: str, mode: str) -> Callable[[], None]:
    """A trainer on random views of a volume in memory; each call of the returned function is one iteration, views
    included.

    Args:
        overrides: value by id; "patch_size" is the size of the volume's slices.
        device: "cpu" or "cuda".
        mode: one of :data:`MODES`.
    """
    torch.manual_seed(0)
    if mode == "none":
        return _step(bundle_parser(("train.json",), {"device": device, **overrides}), device)
    folder = TemporaryDirectory()
    weights = Path(folder.name) / "random.pth"
    model = timm.create_model(FOUNDATION_SPECS[_MODEL].backbone, pretrained=False, num_classes=0)
    torch.save(model.state_dict(), weights)
    adapted = {"foundation_model": _MODEL, "foundation_weights": str(weights)}
    parser = bundle_parser(("train.json", "pfa.json"), {"device": device, **adapted, **overrides})
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
    """Endless random views of one volume; the folder of its features exists as long as this iterator."""

    def __init__(
        self, volume: Mapping[str, Any], transform: Compose, size: int, folder: TemporaryDirectory | None
    ) -> None:
        self.volume, self.transform, self.size, self.folder = volume, transform, size, folder

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
    spec, patch = FOUNDATION_SPECS[_MODEL], parser["patch_size"]
    grid = spec.grid(spec.input_size(parser["foundation_image_size"]))
    rule = SliceGridRule((patch[0], patch[1]), grid, spec.image_size // spec.patch_size)
    store = FoundationFeatureStore(folder, {_CASE: "features.npy"}, rule)
    shape = (_SLICES, spec.channels, *rule.choose(patch).tokens)
    save_features(store.path(_CASE), np.random.default_rng(0).standard_normal(shape))
    return store


def _compare(plan: Plan, overrides: dict[str, Any]) -> Comparison:
    parser = bundle_parser(("train.json", "pfa.json"), overrides)
    setting = {"images": image_setting(parser), "model's input": parser["foundation_image_size"]}
    contenders = tuple(
        Contender(name, partial(prepare_adapter_step, overrides, plan.device, mode)) for mode, name in MODES.items()
    )
    return Comparison(setting, contenders, MODES["none"])


def _build(plan: Plan) -> list[Comparison]:
    small: dict[str, Any] = {
        "patch_size": [64, 64],
        "network_def#channels": [16, 32, 64, 128],
        "network_def#strides": [2, 2, 2],
        "network_def#reconstruction_channels": [8, 16, 32],
    }
    if plan.quick:
        tiny = {"patch_size": [32, 32], "network_def#channels": [4, 4, 8, 8], "foundation_image_size": 28}
        return [_compare(plan, {**small, **tiny})]
    return [_compare(plan, {"patch_size": [128, 128]}), _compare(plan, small)]


ADAPTER = Case(
    "Training step with the feature adapter, 2D",
    "One iteration with its data: eight random views cut from a volume in memory and augmented as configured, then the "
    "step as above at the default K 1,024, D 64. The adapter aligns with DINOv2 ViT-S/14 with random weights; its "
    "features are computed on every view, or sampled from those that were stored once a slice. Computing these is not "
    "in it.",
    _build,
)
