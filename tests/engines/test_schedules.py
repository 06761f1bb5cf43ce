"""Schedules, CutMix's boxes on a coarse grid of features, and features that come with the batches."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.transforms import CutMix
from support.training_parts import TinyFoundationModel, labeled_batches, make_trainer, unlabeled_batches

from vqseg_bundle.engines import UnlabeledStream, iteration_budget, sigmoid_ramp_up
from vqseg_bundle.engines.unlabeled_views import mix_features
from vqseg_bundle.layers import PostVQFeatureAdapter


@pytest.mark.parametrize(
    ("max_epochs", "iterations_per_epoch", "max_iterations", "budget"),
    [
        (6, 100, 600, 600),  # whole epochs
        (3, 100, 250, 250),  # the last epoch is short
        (1, 100, 7, 7),  # shorter than one epoch
        (3, 100, 201, 201),  # one iteration in the last epoch
        (50, 100, 600, 5000),  # overridden upwards, as MONAI Label does
        (2, 100, 600, 200),  # overridden downwards
        (2, 100, 250, 200),  # an overridden training has whole epochs
        (2, 100, None, 200),  # no budget was asked for
        (1, 1, 1, 1),
    ],
)
def test_budget(max_epochs, iterations_per_epoch, max_iterations, budget):
    assert iteration_budget(max_epochs, iterations_per_epoch, max_iterations) == budget


@pytest.mark.parametrize("counts", [(0, 100, None), (1, 0, 5), (1, 100, 0), (-1, 100, 100)])
def test_budget_refuses_counts_below_1(counts):
    with pytest.raises(ValueError, match=f"must be at least 1, got {counts[0]}, {counts[1]} and {counts[2]}"):
        iteration_budget(*counts)


@pytest.mark.parametrize(
    ("progress", "share", "factor"),
    [
        (0.0, 0.3, math.exp(-5.0)),  # 0.0067
        (0.15, 0.3, math.exp(-1.25)),  # half way: -5 * 0.5^2
        (0.24, 0.3, math.exp(-0.2)),  # -5 * 0.2^2
        (0.3, 0.3, 1.0),
        (0.9, 0.3, 1.0),
        (0.75, 1.0, math.exp(-0.3125)),
        (0.0, 0.0, 1.0),  # no ramp
    ],
)
def test_ramp(progress, share, factor):
    assert sigmoid_ramp_up(progress, share) == pytest.approx(factor, rel=1e-12)


def test_ramp_never_falls():
    factors = [sigmoid_ramp_up(step / 100, 0.4) for step in range(100)]
    assert factors == sorted(factors)
    assert min(factors) > 0.0
    assert max(factors) == 1.0


def box_mixer(weight: float = 0.5, batch: int = 3, size: tuple[int, ...] = (36, 36)) -> CutMix:
    mixer = CutMix(batch_size=batch, alpha=1.0)
    mixer.set_random_state(seed=2)
    images = torch.zeros(batch, 1, *size)
    mixer.randomize(images)
    mixer._params = (torch.full((batch,), weight), torch.tensor([*range(1, batch), 0]), mixer._params[2])
    return mixer


@pytest.mark.parametrize("size", [(36, 36), (36, 36, 9)])
def test_each_patch_gets_the_features_of_the_image_shown_at_its_center(size):
    mixer = box_mixer(size=size)
    grid = tuple(length // 4 if length == 36 else length // 3 for length in size)
    # images of patches of one value each, and that value as feature: mixing then pooling the centers must agree
    features = torch.rand(3, 5, *grid)
    images = F.interpolate(features, size=size, mode="nearest-exact")
    mixed = mixer.apply(images)
    expected = F.interpolate(mixed, size=grid, mode="nearest-exact")
    found = mix_features(mixer.apply, features, size)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(found, features)


def test_a_mix_that_changes_nothing_leaves_the_features():
    mixer = box_mixer(weight=1.0)
    features = torch.rand(3, 5, 9, 9)
    torch.testing.assert_close(mix_features(mixer.apply, features, (36, 36)), features, rtol=0, atol=0)


def test_a_whole_exchange_takes_the_partners_features():
    features = torch.rand(2, 5, 9, 9)
    assert torch.equal(mix_features(lambda images: images.flip(0), features, (128, 128)), features.flip(0))


def with_features(batches, model):
    """Batches with the features that the model has for their weak views."""
    return [{**batch, "foundation_features": model(batch["image"])} for batch in batches]


def run(**changes):
    torch.manual_seed(0)
    trainer = make_trainer(adapter=PostVQFeatureAdapter(2, 5, 7), **changes)
    trainer.run()
    return trainer.state.output["terms"]


def test_features_of_the_batches_train_as_the_model_would():
    model = TinyFoundationModel()
    loaders = {"train_data_loader": labeled_batches(), "unlabeled_data_loader": unlabeled_batches()}
    exact = run(foundation_model=model, **loaders)
    cached = run(**{name: with_features(batches, model) for name, batches in loaders.items()})
    assert exact.alignment.item() > 0
    for ours, theirs in zip(cached, exact, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_every_stream_gets_its_features_mixed_as_its_images_are():
    # features that are the means of 4 x 4 pixels of images of one value: what a patch shows is what it must have
    values = torch.arange(3.0).view(3, 1, 1, 1)
    weak = values.expand(3, 1, 16, 16)
    batch = {"image": weak, "strong": weak, "foundation_features": values.expand(3, 1, 4, 4)}
    labeled = [{**item, "foundation_features": torch.full((2, 1, 4, 4), 9.0)} for item in labeled_batches()]
    seen = []
    trainer = make_trainer(
        adapter=PostVQFeatureAdapter(2, 5, 1),
        train_data_loader=labeled,
        unlabeled_data_loader=[batch],
        mixer=CutMix(batch_size=3),
        unlabeled_streams=[UnlabeledStream(), UnlabeledStream(view="image", mixed=False), UnlabeledStream()],
        epoch_length=6,
    )
    loss = trainer.loss_function

    def keep(student, targets, ramp):
        seen.append(targets)
        return loss(student, targets, ramp)

    trainer.loss_function = keep
    trainer.run()
    moved = 0
    for targets in seen:
        features, images = targets.foundation_features, targets.images
        assert (features[:2] == 9).all()
        shown = F.interpolate(images[2:], size=(4, 4), mode="nearest-exact")
        torch.testing.assert_close(features[2:], shown)
        assert torch.equal(features[5:8], batch["foundation_features"])  # the unmixed stream
        moved += int(not torch.equal(features[2:5], features[8:]))
    assert moved > 0
