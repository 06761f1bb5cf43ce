"""The views and versions of the unlabelled batch in one step: CutMix, features, several streams."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from ignite.engine import Events
from monai.transforms import CutMix
from support.training_parts import (
    WEIGHTS,
    TinyFoundationModel,
    labeled_batches,
    make_student,
    make_trainer,
    unlabeled_batches,
)
from torch import Tensor, nn

from vqseg_bundle.engines import STRONG, STRONG_2, EMATeacher, PseudoLabels, UnlabeledStream, parse_streams
from vqseg_bundle.layers import PostVQFeatureAdapter
from vqseg_bundle.losses import VQSegLoss, VQSegTargets

UNIMATCH = [
    {"view": "strong", "perturbed": False, "weight": 0.25},
    {"view": "strong_2", "perturbed": False, "weight": 0.25},
    {"view": "image", "perturbed": True, "mixed": False, "weight": 0.5},
]


def _two_views() -> list[dict[str, Tensor]]:
    return [{**batch, STRONG_2: batch["image"] - 10.0} for batch in unlabeled_batches()]


def _watch(
    weights: dict[str, float] = WEIGHTS, **changes: Any
) -> tuple[list[VQSegTargets], list[list[bool]], list[float]]:
    """Targets, flags of the perturbation and losses of each step."""
    targets_seen: list[VQSegTargets] = []
    flags: list[list[bool]] = []
    totals: list[float] = []
    loss = VQSegLoss(**weights)

    def keep_targets(output, targets, ramp):
        targets_seen.append(targets)
        return loss(output, targets, ramp)

    trainer = make_trainer(loss_function=keep_targets, **changes)
    trainer.network.register_forward_pre_hook(lambda _, inputs: flags.append(inputs[4]))
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: totals.append(engine.state.output["loss"].item())
    )
    trainer.run()
    return targets_seen, flags, totals


def test_a_stream_by_default_is_the_perturbed_mixed_strong_view():
    stream = UnlabeledStream()
    assert (stream.view, stream.perturbed, stream.mixed, stream.weight) == ("strong", True, True, 1.0)
    assert parse_streams([{}]) == parse_streams([stream]) == (stream,)


def test_one_plain_stream_is_the_default():
    shared = {"mixer": CutMix(batch_size=3)}
    assert _watch(**shared)[2] == _watch(unlabeled_streams=[{"view": "strong", "weight": 1.0}], **shared)[2]


def test_the_student_sees_all_streams_and_the_mask_follows_them():
    targets, flags, _ = _watch(unlabeled_streams=UNIMATCH, unlabeled_data_loader=_two_views(), epoch_length=1)
    batch = _two_views()[0]
    expected = torch.cat((labeled_batches()[0][STRONG], batch[STRONG], batch[STRONG_2], batch["image"]))
    assert torch.equal(targets[0].images, expected)
    assert flags == [[False] * 6 + [True] * 3]
    assert targets[0].stream_weights == (0.25, 0.25, 0.5)
    probabilities = targets[0].pseudo_probabilities
    assert probabilities.shape == (9, 2, 16, 16)
    assert torch.equal(probabilities[:3], probabilities[3:6])
    assert torch.equal(probabilities[:3], probabilities[6:])


def test_each_mixed_stream_has_boxes_of_its_own_and_the_unmixed_none():
    streams = [{"view": "strong"}, {"view": "strong"}, {"view": "strong", "mixed": False}]
    targets, _, _ = _watch(unlabeled_streams=streams, mixer=CutMix(batch_size=3), epoch_length=4)
    strong = [batch[STRONG] for batch in unlabeled_batches()]
    first, second, unmixed = zip(*(step.images[2:].split(3) for step in targets), strict=True)
    assert all(torch.equal(images, strong[step % 2]) for step, images in enumerate(unmixed))
    assert any(not torch.equal(left, right) for left, right in zip(first, second, strict=True))
    assert any(not torch.equal(images, strong[step % 2]) for step, images in enumerate(second))


def test_pseudo_labels_and_entropy_are_mixed_by_their_streams_boxes():
    """Opinion and entropy are functions of the weak view, and the strong view is its multiple."""

    class Intensity:
        def pseudo_label(self, images, generator=None):
            share = torch.sigmoid(images)
            return PseudoLabels(torch.cat((1 - share, share), dim=1), images[:, 0].square())

    streams = [{"view": "strong"}, {"view": "strong"}]
    targets, _, _ = _watch(unlabeled_streams=streams, mixer=CutMix(batch_size=3), pseudo_labeler=Intensity())
    for step in targets:
        weak = step.images[2:] / 1.1
        torch.testing.assert_close(step.pseudo_probabilities[:, 1:], torch.sigmoid(weak))
        torch.testing.assert_close(step.entropy, weak[:, 0].square())


def test_a_stream_in_two_halves_is_the_stream():
    """Two unperturbed, unmixed copies at half the weight give the losses of one; codes count every image alike."""
    weights = {**WEIGHTS, "lambda_commitment": 0.0}
    one = {"view": "strong", "perturbed": False, "mixed": False}
    whole = _watch(weights, unlabeled_streams=[one])[2]
    halves = _watch(weights, unlabeled_streams=[{**one, "weight": 0.5}] * 2)[2]
    assert halves == pytest.approx(whole, rel=1e-5)


def test_two_streams_of_vqseg_perturb_one_half():
    streams = [{"view": "strong", "perturbed": flag, "weight": 0.5} for flag in (False, True)]
    targets, flags, totals = _watch(unlabeled_streams=streams, epoch_length=1)
    assert flags == [[False] * 3 + [True] * 3]
    assert torch.equal(targets[0].images[2:5], targets[0].images[5:])
    assert all(total > 0 for total in totals)


def test_an_unmixed_trainer_leaves_the_mixers_state():
    mixer = CutMix(batch_size=3)
    _watch(unlabeled_streams=[{"mixed": False}], mixer=mixer, generator=None)
    assert not hasattr(mixer, "_params")


@pytest.mark.parametrize("stream", range(3))
def test_every_stream_moves_the_student(stream):
    """A step of all streams against the same step with one of them weightless."""

    def stepped(weights):
        streams = [{**of, "weight": weight} for of, weight in zip(UNIMATCH, weights, strict=True)]
        student = make_student()
        make_trainer(
            student, unlabeled_streams=streams, unlabeled_data_loader=_two_views(), epoch_length=1, max_epochs=1
        ).run()
        return {name: value.clone() for name, value in student.named_parameters() if "segmentation_decoder" in name}

    whole = stepped([0.25, 0.25, 0.5])
    without = stepped([1e-12 if index == stream else weight for index, weight in enumerate([0.25, 0.25, 0.5])])
    assert any((whole[name] - without[name]).abs().max() > 1e-5 for name in whole)


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        ([], r"unlabeled_streams must be a list of at least one stream, got \[\]"),
        ({"view": "strong"}, "unlabeled_streams must be a list of at least one stream, got {'view'"),
        (["strong"], "must be a mapping with some of view, perturbed, mixed, weight, got 'strong'"),
        ([{"veiw": "strong"}], "must be a mapping with some of view, perturbed, mixed, weight, got {'veiw'"),
        ([{"view": "weak"}], "view of an unlabelled stream must be one of strong, strong_2, image, got 'weak'"),
        ([{"weight": 0}], "weight of an unlabelled stream must be a positive number, got 0"),
        ([{"weight": -1.0}], "weight of an unlabelled stream must be a positive number, got -1.0"),
        ([{"weight": float("inf")}], "weight of an unlabelled stream must be a positive number, got inf"),
        ([{"weight": float("nan")}], "weight of an unlabelled stream must be a positive number, got nan"),
        ([{"weight": "1"}], "weight of an unlabelled stream must be a positive number, got '1'"),
        ([{"perturbed": "false"}], "perturbed of an unlabelled stream must be true or false, got 'false'"),
        ([{"mixed": 1}], "mixed of an unlabelled stream must be true or false, got 1"),
    ],
)
def test_streams_are_checked_before_the_first_step(streams, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(unlabeled_streams=streams)


def test_a_batch_without_a_streams_view_is_named():
    trainer = make_trainer(unlabeled_streams=UNIMATCH)
    message = "must hold image, strong, strong_2 for unlabeled_streams, strong_2 is missing from image, strong; add"
    with pytest.raises(ValueError, match=message):
        trainer.run()


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
        self.classes_seen: list[Tensor] = []

    def forward(self, labeled, unlabeled=None, grid=None, generator=None, perturbed=None, classes=None):
        self.classes_seen.append(classes)
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

    network = LevelsTrainingModule(student)
    make_trainer(
        student,
        network=network,
        epoch_length=4,
        optimizer=torch.optim.SGD(student.parameters(), lr=0.0),
        train_data_loader=[labeled],
        unlabeled_data_loader=[batch],
        loss_function=loss,
        foundation_model=foundation_model,
        mixer=CutMix(batch_size=99),  # the batch's own size rules
    ).run()
    teacher = EMATeacher(student)
    for mixed, targets, classes in zip(weak_views, targets_seen, network.classes_seen, strict=True):
        torch.testing.assert_close(targets.images[2:], mixed + 10.0)
        assert torch.equal(classes, torch.cat((targets.labels, targets.pseudo_probabilities.argmax(dim=1))))
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
