"""Foundation-model features that come with the batches, in place of the model."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from monai.transforms import CutMix
from support.training_parts import TinyFoundationModel, labeled_batches, make_trainer, unlabeled_batches

from vqseg_bundle.engines import UnlabeledStream
from vqseg_bundle.layers import PostVQFeatureAdapter


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
