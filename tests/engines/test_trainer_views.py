"""What the trainer makes of weak and strong views: CutMix, and the foundation model's features."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from monai.transforms import CutMix
from support.training_parts import TinyFoundationModel, labeled_batches, make_student, make_trainer, unlabeled_batches
from torch import Tensor, nn

from vqseg_bundle.engines import STRONG, EMATeacher
from vqseg_bundle.layers import PostVQFeatureAdapter


class Levels(nn.Module):
    """Logits whose argmax is the intensity rounded to 0, 1 or 2, and whose maximum tells the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return -self.scale * (images - torch.arange(3.0).view(1, 3, *[1] * (images.ndim - 2))).square()


class LevelsOutput(NamedTuple):
    labeled_logits: Tensor
    unlabeled_logits: Tensor


class LevelsTrainingModule(nn.Module):
    def __init__(self, student: Levels) -> None:
        super().__init__()
        self.student = student

    def forward(self, labeled, unlabeled=None, grid=None, generator=None, perturbed=None):
        return LevelsOutput(self.student(labeled), self.student(unlabeled))


class LevelsTerms(NamedTuple):
    total: Tensor


@pytest.mark.parametrize("size", [(12, 10), (8, 6, 5)])
def test_cutmix_mixes_weak_strong_and_pseudo_label_by_one_box(size):
    """The strong view is the weak one plus 10, and the teacher's opinion is a function of each weak voxel."""
    weak = (torch.rand(4, 1, *size, generator=torch.Generator().manual_seed(0)) * 2).clamp(0.1, 1.9)
    batch = {"image": weak, STRONG: weak + 10.0}
    labeled = {"image": torch.zeros(2, 1, *size), "label": torch.zeros(2, 1, *size)}
    student, weak_views, targets_seen = Levels(), [], []

    def loss(output, targets, ramp):
        targets_seen.append(targets)
        return LevelsTerms(output.unlabeled_logits.mean())

    def foundation_model(images):
        weak_views.append(images[2:])
        return torch.zeros(6, 1, 2, 2)

    make_trainer(
        student,
        network=LevelsTrainingModule(student),
        epoch_length=4,
        optimizer=torch.optim.SGD(student.parameters(), lr=0.0),
        train_data_loader=[labeled],
        unlabeled_data_loader=[batch],
        loss_function=loss,
        foundation_model=foundation_model,
        mixer=CutMix(batch_size=99),  # the batch's own size rules
    ).run()
    teacher = EMATeacher(student)
    for mixed, targets in zip(weak_views, targets_seen, strict=True):
        torch.testing.assert_close(targets.images[2:], mixed + 10.0)
        torch.testing.assert_close(targets.pseudo_probabilities, teacher.pseudo_label(mixed).probabilities)
        # every voxel keeps its place and comes from some image of the batch
        assert (mixed.unsqueeze(1) == weak.unsqueeze(0)).any(dim=1).all()
    assert any(not torch.equal(mixed, weak) for mixed in weak_views)
    assert any(not torch.equal(mixed, weak_views[0]) for mixed in weak_views[1:])


def test_the_foundation_model_stays_frozen_and_the_adapter_learns():
    foundation, adapter = TinyFoundationModel(), PostVQFeatureAdapter(2, 5, 7)
    frozen = [parameter.clone() for parameter in foundation.backbone.parameters()]
    start = adapter.projection.weight.detach().clone()
    trainer = make_trainer(adapter=adapter, foundation_model=foundation)
    trainer.run()
    assert trainer.state.output["student"].adapted.shape == (5, 7, 3, 3)
    assert trainer.state.output["terms"].alignment.item() > 0
    for before, parameter in zip(frozen, foundation.backbone.parameters(), strict=True):
        assert parameter.grad is None
        assert not parameter.requires_grad
        assert torch.equal(before, parameter)
    assert (adapter.projection.weight.grad.abs() > 0).all()
    assert not torch.equal(adapter.projection.weight, start)


def test_the_foundation_model_sees_the_weak_views():
    seen: list[Tensor] = []
    foundation = TinyFoundationModel()

    def keep_images(images):
        seen.append(images)
        return foundation(images)

    make_trainer(adapter=PostVQFeatureAdapter(2, 5, 7), foundation_model=keep_images, epoch_length=1).run()
    assert torch.equal(seen[0], torch.cat((labeled_batches()[0]["image"], unlabeled_batches()[0]["image"])))


def test_volumes_hand_the_foundation_depth_on():
    size = (8, 8, 6)
    trainer = make_trainer(
        make_student(spatial_dims=3, strides=(2, (2, 2, 1))),
        adapter=PostVQFeatureAdapter(3, 5, 7),
        epoch_length=1,
        foundation_model=TinyFoundationModel(),
        foundation_depth=2,
        train_data_loader=labeled_batches(1, size),
        unlabeled_data_loader=unlabeled_batches(1, size),
    )
    trainer.run()
    assert trainer.state.output["student"].adapted.shape == (5, 7, 3, 3, 2)
