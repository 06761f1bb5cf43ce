"""The configuration key foundation_features: whole trainings with a small stand-in for the foundation model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from support.bundle_runs import CONFIGS, TINY, CohortFolder, refused, run_here
from support.foundation_parts import DINOV2, PatchMeans
from torch import nn

from vqseg_bundle import data, networks

TWO_STEPS = {**TINY, "max_iterations": 2, "iterations_per_epoch": 2, "patch_size": [16, 16]}
TWO_STEPS_3D = {
    **TWO_STEPS,
    "patch_size": [16, 16, 4],
    "network_def#channels": [4, 8, 8, 16],
    "network_def#strides": [[2, 2, 1], [2, 2, 2], [2, 2, 1]],
    "network_def#reconstruction_channels": [4, 4],
}
CROP = {"_target_": "RandSpatialCropd", "keys": ["image", "label"], "roi_size": "@crop_size"}
TYPED = {"_target_": "EnsureTyped", "keys": "label", "allow_missing_keys": True}
#: a stand-in that sees 4 x 4 patches in a view of 16 pixels
CACHED = {"foundation_model": "dinov2_vits14", "foundation_image_size": 56, "foundation_features": "cached"}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces the real models; holds the image sizes that were built."""
    sizes: list[int] = []

    def build(name: str, weights: str | None, image_size: int) -> PatchMeans | None:
        if name != "none":
            sizes.append(image_size)
        return PatchMeans(image_size) if name != "none" else None

    monkeypatch.setattr(networks, "build_foundation_model", build)
    return sizes


def places(cohort: CohortFolder, output_dir: Path) -> dict[str, str]:
    return {"dataset_dir": str(cohort.root), "output_dir": str(output_dir)}


class Batches:
    """What a training's dataloaders gave, by the order of the steps."""

    def __init__(self) -> None:
        self.labeled: list[dict[str, Any]] = []
        self.unlabeled: list[dict[str, Any]] = []

    def keep(self, parser: ConfigParser) -> None:
        trainer = parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.ITERATION_STARTED, lambda: self.labeled.append(trainer.state.batch))
        trainer.unlabeled_data_loader = self._kept(trainer.unlabeled_data_loader)

    def _kept(self, loader: Any) -> Any:
        for batch in loader:
            self.unlabeled.append(batch)
            yield batch


def batches_of(cohort: CohortFolder, output_dir: Path, *overlays: str, **overrides: Any) -> Batches:
    kept = Batches()
    run_here("training", "train.json", *overlays, before=kept.keep, **places(cohort, output_dir), **overrides)
    return kept


@pytest.mark.parametrize("overlays, settings", [([], TWO_STEPS), (["train_3d.json"], TWO_STEPS_3D)])
def test_the_views_are_the_same_with_and_without(shared_cohort, tmp_path, built, overlays, settings):
    settings = {**settings, **CACHED}
    cached = batches_of(shared_cohort, tmp_path / "on", *overlays, **settings)
    exact = batches_of(shared_cohort, tmp_path / "off", *overlays, **{**settings, "foundation_features": "exact"})
    for with_features, without in ((cached.labeled, exact.labeled), (cached.unlabeled, exact.unlabeled)):
        assert len(with_features) == len(without) == 2
        for ours, plain in zip(with_features, without, strict=True):
            assert set(ours) == {*plain, "foundation_features"}
            for key in {"image", "strong", "label"} & set(plain):
                torch.testing.assert_close(ours[key], plain[key], rtol=0, atol=0)


@pytest.mark.parametrize("overlays, settings", [([], TWO_STEPS), (["train_3d.json"], TWO_STEPS_3D)])
def test_batches_hold_nearly_what_the_model_sees_in_their_views(shared_cohort, tmp_path, built, overlays, settings):
    settings = {**settings, **CACHED, "max_iterations": 8, "iterations_per_epoch": 8}
    kept = batches_of(shared_cohort, tmp_path, *overlays, **settings)
    model = PatchMeans(56)
    found, expected = [], []
    for batch in [*kept.labeled, *kept.unlabeled]:
        features = batch["foundation_features"]
        assert features.shape[:4] == (2, 3, 4, 4)
        assert features.dtype == torch.float32
        depth = {"depth": features.shape[-1]} if features.ndim == 5 else {}
        found.extend(features[:, 0].flatten(1))
        expected.extend(model(batch["image"], **depth)[:, 0].flatten(1))
    # a view and a slice are each scaled to their own range, hence correlations; the control is the next view
    own = [np.corrcoef(ours, exact)[0, 1] for ours, exact in zip(found, expected, strict=True)]
    other = [np.corrcoef(ours, exact)[0, 1] for ours, exact in zip(found, expected[1:], strict=False)]
    assert np.median(own) > 0.85
    assert np.median(other) < 0.5


def test_files_go_to_the_output_folder_and_another_run_finds_them(shared_cohort, tmp_path, built):
    shared = {**TWO_STEPS, **CACHED}
    run_here("training", "train.json", **places(shared_cohort, tmp_path / "a"), **shared)
    folder = tmp_path / "a" / "foundation_features"
    files = sorted(folder.iterdir())
    assert len(files) == 4  # two labelled, two unlabelled cases; nothing of validation and test
    # 4 slices of 32 x 32 pixels, 4 pixels a patch
    assert {np.load(file).shape for file in files} == {(4, 3, 8, 8)}
    assert built == [56, 112]
    built.clear()
    settings = {**shared, "seed": 7, "foundation_feature_dir": str(folder)}
    run_here("training", "train.json", **places(shared_cohort, tmp_path / "b"), **settings)
    assert built == [56]
    assert sorted(folder.iterdir()) == files
    assert not (tmp_path / "b" / "foundation_features").exists()


def test_an_input_beyond_the_native_size_is_kept(shared_cohort, tmp_path, built):
    """A view that is the whole slice gets as fine a grid from the cache as without it; DINOv2's native side is 37."""
    settings = {**TWO_STEPS, **CACHED, "patch_size": [32, 32], "foundation_image_size": 14 * 40}
    run_here("training", "train.json", **places(shared_cohort, tmp_path), **settings)
    files = (tmp_path / "foundation_features").iterdir()
    assert {np.load(file).shape for file in files} == {(4, 3, 40, 40)}


@pytest.mark.parametrize(("iterations", "mode", "seen"), [(3, "cached", 16), (6, "cached", 16), (3, "exact", 12)])
def test_the_model_sees_each_slice_once_however_long_the_training(
    shared_cohort, tmp_path, built, monkeypatch, iterations, mode, seen
):
    """4 cases of 4 slices to train on; without the cache 2 labelled and 2 unlabelled views a step."""
    images: list[int] = []
    extract = PatchMeans.extract_features
    monkeypatch.setattr(PatchMeans, "extract_features", lambda *args: images.append(len(args[1])) or extract(*args))
    settings = {**TWO_STEPS, **CACHED, "foundation_features": mode, "max_iterations": iterations}
    settings["foundation_feature_dir"] = str(tmp_path / "features")
    run_here("training", "train.json", **places(shared_cohort, tmp_path / "a"), **settings)
    assert sum(images) == seen
    if mode == "cached":
        run_here("training", "train.json", **places(shared_cohort, tmp_path / "b"), **settings)
        assert sum(images) == seen


def test_other_preprocessing_makes_other_files(shared_cohort, tmp_path, built):
    settings = {**TWO_STEPS, **CACHED, "foundation_feature_dir": str(tmp_path / "shared")}
    transforms = ConfigParser.load_config_file(CONFIGS / "train.json")["volume_transforms"]
    clipped = [{**step, "upper": 90.0} if "upper" in step else step for step in transforms]
    for change in ({}, {"image_size": [24, 24]}, {"volume_transforms": clipped}):
        overrides = {**settings, **change}
        run_here("training", "train.json", **places(shared_cohort, tmp_path / "out"), **overrides)
    assert len(list((tmp_path / "shared").iterdir())) == 12


@pytest.mark.parametrize("settings", [{"foundation_features": "exact"}, {"foundation_model": "none"}])
def test_without_it_nothing_is_written_and_batches_hold_no_features(shared_cohort, tmp_path, built, settings):
    kept = batches_of(shared_cohort, tmp_path, **{**TWO_STEPS, **CACHED, **settings})
    assert "foundation_features" not in kept.labeled[0]
    assert "row" not in kept.labeled[0]
    assert not (tmp_path / "foundation_features").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"foundation_features": "cache"}, "--foundation_features: expected exact or cached, found 'cache'"),
        ({"foundation_feature_gb": 0}, "--foundation_feature_gb: expected a positive number, found 0"),
        ({"foundation_feature_gb": 1e-6}, r"foundation_feature_gb is 1e-06, .* 4 cases take 6\.14e-06 GB"),
        ({"foundation_image_size": 518, "patch_size": [8, 8]}, r"needs 148 patches .* 4\.0 times coarser.*'exact'"),
        ({"labeled_crop": [CROP]}, "labeled_crop: the keys of RandSpatialCropd name image without row, c"),
        ({"geometric_transforms": [TYPED]}, "geometric_transforms lacks JoinTokenCoordinatesd"),
    ],
)
def test_settings_that_cannot_be_right_end_with_a_message(shared_cohort, tmp_path, built, settings, message):
    overrides = {**TWO_STEPS, **CACHED, "dataset_dir": str(shared_cohort.root), **settings}
    refused(tmp_path, message, "training", "train.json", **overrides)


def test_a_folder_that_cannot_be_made_ends_with_a_message(shared_cohort, tmp_path, built):
    (tmp_path / "file").write_text("")
    overrides = {**TWO_STEPS, **CACHED, "dataset_dir": str(shared_cohort.root)}
    overrides["foundation_feature_dir"] = str(tmp_path / "file" / "features")
    refused(tmp_path / "out", "foundation_feature_dir: .*Name a folder", "training", "train.json", **overrides)


@pytest.mark.parametrize("overlays, settings", [([], TWO_STEPS), (["train_3d.json"], TWO_STEPS_3D)])
def test_cached_volumes_survive_an_epoch_bit_for_bit(shared_cohort, tmp_path, built, overlays, settings):
    """Volumes are not copied before each view is cut from them: no transform may write into them."""
    before: list[Any] = []

    def remember(parser: ConfigParser) -> None:
        for dataset in _datasets(parser):
            assert all(dataset[index] for index in range(len(dataset)))  # kept once it is drawn
            before.append(copy.deepcopy(dataset._cache))

    overrides = {**settings, **CACHED, "max_iterations": 20, "iterations_per_epoch": 20}
    where = places(shared_cohort, tmp_path)
    parser = run_here("training", "train.json", *overlays, before=remember, **where, **overrides)
    for dataset, kept in zip(_datasets(parser), before, strict=True):
        assert dataset.copy_cache is False
        assert len(dataset._cache) == 2
        for item, old in zip(dataset._cache, kept, strict=True):
            assert set(item) == set(old)
            for key in {"image", "label"} & set(item):
                torch.testing.assert_close(item[key].as_tensor(), old[key].as_tensor(), rtol=0, atol=0)
                assert item[key].applied_operations == old[key].applied_operations
                assert json.dumps(item[key].meta, default=str) == json.dumps(old[key].meta, default=str)


@pytest.mark.data
def test_an_unmoved_view_of_a_whole_slice_has_dinov2s_own_features(tmp_path):
    if not DINOV2.is_file():
        pytest.skip(f"needs DINOv2's weights at {DINOV2}")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, 6, 6, generator=generator)
    image = nn.functional.interpolate(noise, size=(42, 42), mode="bicubic")[0].unsqueeze(-1)
    (tmp_path / "case").write_text("case")
    case = str(tmp_path / "case")
    model = networks.build_foundation_model("dinov2_vits14", str(DINOV2), 42)
    rule = data.SliceGridRule((42, 42), model.grid, 37)
    store = data.open_feature_store(tmp_path / "features", [case], rule, {})
    volume = MetaTensor(image, meta={"filename_or_obj": case})
    data.compute_slice_features(store, lambda item: {"image": volume}, lambda side: model, model.channels, 1.0)
    view = data.JoinTokenCoordinatesd()(data.AddTokenCoordinatesd(store)({"image": volume}))
    view["image"] = view["image"].squeeze(-1)
    sampled = data.SampleFoundationFeaturesd(model.grid)(view)["foundation_features"]
    exact = model(image.squeeze(-1).unsqueeze(0))[0]
    assert (sampled - exact).norm() / exact.norm() < 1e-3


def _datasets(parser: ConfigParser) -> list[Any]:
    return [parser.get_parsed_content(f"train#{name}") for name in ("dataset", "unlabeled_dataset")]
