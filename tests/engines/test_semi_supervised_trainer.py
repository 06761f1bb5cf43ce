"""The trainer's steps: events, their number, the optimiser and what goes in and out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.transforms import CutMix
from support.training_parts import WEIGHTS, labeled_batches, make_student, make_trainer, unlabeled_batches
from torch import Tensor

from vqseg_bundle.engines import STRONG
from vqseg_bundle.losses import VQSegLoss

EVENTS = (
    IterationEvents.FORWARD_COMPLETED,
    IterationEvents.LOSS_COMPLETED,
    IterationEvents.BACKWARD_COMPLETED,
    IterationEvents.MODEL_COMPLETED,
)


def _count_steps(trainer: Any) -> list[int]:
    steps = [0]
    trainer.optimizer.register_step_post_hook(lambda *_: steps.__setitem__(0, steps[0] + 1))
    return steps


# one iteration


def test_all_iteration_events_are_fired_in_order():
    trainer = make_trainer(epoch_length=2)
    fired: list[tuple[str, set[str]]] = []

    def keep(engine, name):
        fired.append((name, set(engine.state.output)))

    for event in reversed(EVENTS):
        trainer.add_event_handler(event, keep, event.name)
    trainer.run()
    before_loss = {"image", "label", "pred", "images", "student", "pseudo_labels", "unlabeled_targets"}
    once = [
        ("FORWARD_COMPLETED", before_loss),
        ("LOSS_COMPLETED", {*before_loss, "terms", "loss"}),
        ("BACKWARD_COMPLETED", {*before_loss, "terms", "loss"}),
        ("MODEL_COMPLETED", {*before_loss, "terms", "loss"}),
    ]
    assert fired == once * 2


def test_gradients_are_there_when_backward_has_completed_and_the_step_when_the_model_has():
    trainer = make_trainer(epoch_length=1)
    start = trainer.student.code_projection.weight.clone()
    changed = {}

    def look(engine, name):
        weight = engine.student.code_projection.weight
        changed[name] = (weight.grad is not None, not torch.equal(weight, start))

    for event in EVENTS[1:]:
        trainer.add_event_handler(event, look, event.name)
    trainer.run()
    assert changed == {
        "LOSS_COMPLETED": (False, False),
        "BACKWARD_COMPLETED": (True, False),
        "MODEL_COMPLETED": (True, True),
    }


def test_output_and_what_a_handler_makes_of_it():
    trainer = make_trainer(epoch_length=1, postprocessing=lambda data: {**data, "pred": data["pred"].argmax(1)})
    trainer.run()
    output = trainer.state.output
    assert output["pred"].shape == output["label"].shape == (2, 16, 16)
    assert output["label"].dtype is torch.int64
    assert output["loss"] is output["terms"].total
    assert torch.equal(output["image"], labeled_batches()[0][STRONG])


def test_the_loaders_do_not_run_under_autocast():
    seen: list[bool] = []

    class Batches:
        def __init__(self, batches: list) -> None:
            self.batches = batches

        def __len__(self) -> int:
            return len(self.batches)

        def __iter__(self):
            for batch in self.batches:
                seen.append(torch.is_autocast_enabled("cpu"))
                yield batch

    trainer = make_trainer(
        epoch_length=2,
        amp=True,
        train_data_loader=Batches(labeled_batches()),
        unlabeled_data_loader=Batches(unlabeled_batches()),
    )
    trainer.run()
    assert len(seen) >= 4
    assert not any(seen)
    assert trainer.state.output["pred"].dtype == torch.bfloat16


def test_labelled_images_without_strong_view_are_used_as_they_are():
    batches = [{"image": batch["image"], "label": batch["label"]} for batch in labeled_batches()]
    trainer = make_trainer(epoch_length=1, train_data_loader=batches)
    trainer.run()
    assert torch.equal(trainer.state.output["image"], batches[0]["image"])


def test_metatensors_are_taken_off():
    batches = [{key: MetaTensor(value) for key, value in batch.items()} for batch in labeled_batches()]
    trainer = make_trainer(epoch_length=1, train_data_loader=batches)
    trainer.run()
    assert type(trainer.state.output["image"]) is torch.Tensor
    assert type(trainer.state.output["loss"]) is torch.Tensor


# the length of a training


@pytest.mark.parametrize(
    ("max_epochs", "max_iterations", "steps", "epochs"),
    [
        (2, 6, 6, 2),
        (3, 7, 7, 3),  # the last epoch is short
        (1, 2, 2, 1),  # the only one is
        (4, 7, 12, 4),  # overridden: whole epochs
        (1, 7, 3, 1),
        (2, None, 6, 2),
    ],
)
def test_steps_and_completed_epochs(max_epochs, max_iterations, steps, epochs):
    trainer = make_trainer(max_epochs=max_epochs, max_iterations=max_iterations, train_data_loader=labeled_batches(2))
    counted, completed, done = _count_steps(trainer), [], []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: completed.append(engine.state.iteration))
    trainer.add_event_handler(Events.COMPLETED, lambda engine: done.append(engine.state.epoch))
    trainer.run()
    assert trainer.total_iterations == steps == counted[0] == trainer.state.iteration
    assert completed == [min(3 * (epoch + 1), steps) for epoch in range(epochs)]
    assert done == [epochs]


def test_progress_and_ramp_follow_the_budget():
    ramps: list[float] = []
    loss = VQSegLoss(**WEIGHTS)

    def keep_ramp(output, targets, ramp):
        ramps.append(ramp)
        return loss(output, targets, ramp)

    make_trainer(max_epochs=2, max_iterations=5, loss_function=keep_ramp, ramp_up_share=0.8).run()
    # progress 0, 0.2, 0.4, 0.6, 0.8 of which the ramp takes 0.8
    expected = [math.exp(-5 * (1 - share) ** 2) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert ramps == pytest.approx(expected, rel=1e-9)


def test_the_shorter_unlabelled_loader_cycles():
    seen: list[Tensor] = []
    trainer = make_trainer(
        epoch_length=5, train_data_loader=labeled_batches(5), unlabeled_data_loader=unlabeled_batches(2)
    )
    trainer.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    trainer.run()
    strong = [batch[STRONG] for batch in unlabeled_batches(2)]
    assert [next(i for i in range(2) if torch.equal(batch, strong[i])) for batch in seen] == [0, 1, 0, 1, 0]


def test_an_unlabelled_loader_without_batches_is_refused():
    trainer = make_trainer(unlabeled_data_loader=[])
    with pytest.raises(ValueError, match="unlabeled_data_loader gave no batch; pass None"):
        trainer.run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ramp_up_share": 1.5}, r"ramp_up_share must lie in \[0, 1\], got 1.5"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm must be positive or None, got 0.0"),
        ({"max_iterations": 0}, r"must be at least 1, got 1, 3 and 0"),
    ],
)
def test_arguments_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**changes)


# optimisation


def test_gradients_are_clipped_to_the_norm():
    def norms(max_grad_norm: float | None) -> list[float]:
        found: list[float] = []
        trainer = make_trainer(max_grad_norm=max_grad_norm)
        parameters = list(trainer.network.parameters())

        def keep_norm(*_: Any) -> None:
            found.append(torch.stack([parameter.grad.norm() for parameter in parameters]).norm().item())

        trainer.optimizer.register_step_pre_hook(keep_norm)
        trainer.run()
        return found

    free, clipped = norms(None), norms(0.01)
    assert min(free) > 0.1
    assert clipped == pytest.approx([0.01] * 3, rel=1e-3)
    assert norms(1e6) == free


def test_no_gradient_is_carried_over_to_the_next_step():
    student, gradients = make_student(), []
    standstill = torch.optim.SGD(student.parameters(), lr=0.0)
    standstill.register_step_pre_hook(lambda *_: gradients.append(student.code_projection.weight.grad.clone()))
    make_trainer(student, optimizer=standstill, train_data_loader=labeled_batches(1), unlabeled_data_loader=None).run()
    assert len(gradients) == 3
    assert torch.equal(gradients[0], gradients[2])


def test_bf16_autocast_on_the_cpu_is_finite_and_keeps_float32_weights():
    trainer = make_trainer(amp=True)
    found: list[tuple[torch.dtype, bool]] = []

    def keep(engine):
        found.append((engine.state.output["pred"].dtype, math.isfinite(engine.state.output["loss"].item())))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, keep)
    steps = _count_steps(trainer)
    trainer.run()
    assert found == [(torch.bfloat16, True)] * 3
    assert steps == [3]
    for model in (trainer.student, trainer.teacher.module):
        assert all(parameter.dtype is torch.float32 for parameter in model.parameters())
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_training_lowers_the_loss_on_labels():
    losses: list[float] = []
    trainer = make_trainer(max_epochs=10, train_data_loader=labeled_batches(1), unlabeled_data_loader=None)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: losses.append(engine.state.output["terms"].labeled_segmentation.item()),
    )
    trainer.run()
    assert losses[-1] < 0.7 * losses[0]


def _trained_weights(seed: int) -> dict[str, Tensor]:
    trainer = make_trainer(generator=torch.Generator().manual_seed(seed), mixer=CutMix(batch_size=3))
    trainer.run()
    return trainer.teacher.state_dict()


def test_the_same_seed_gives_the_same_weights():
    first, again, other = _trained_weights(0), _trained_weights(0), _trained_weights(1)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert any(not torch.equal(value, other[key]) for key, value in first.items())
