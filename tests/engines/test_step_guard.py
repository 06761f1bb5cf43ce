"""A loss, gradient, weight or image that is not finite stops the training in its iteration."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from support.training_parts import WEIGHTS, labeled_batches, make_trainer, unlabeled_batches
from torch import Tensor, nn

from vqseg_bundle.common import NonFiniteError
from vqseg_bundle.engines.step_guard import StepGuard
from vqseg_bundle.losses import VQSegLoss

LABELED = [{**batch, "source": [f"l{n}_0.nii", f"l{n}_1.nii"]} for n, batch in enumerate(labeled_batches())]
UNLABELED = [{**batch, "source": [f"u{n}_{i}.nii" for i in range(3)]} for n, batch in enumerate(unlabeled_batches())]


class SpoiltLoss(VQSegLoss):
    """Makes one term NaN in one iteration."""

    def __init__(self, iteration: int, term: str) -> None:
        super().__init__(**WEIGHTS)
        self.left = iteration
        self.term = term

    def forward(self, output: Any, targets: Any, ramp: float = 1.0) -> Any:
        terms = super().forward(output, targets, ramp)
        self.left -= 1
        if self.left != 0:
            return terms
        bad = getattr(terms, self.term) * math.nan
        return terms._replace(**{self.term: bad, "total": terms.total + bad})


def guarded(**changes: Any) -> Any:
    batches = {"train_data_loader": LABELED, "unlabeled_data_loader": UNLABELED}
    trainer = make_trainer(**{**batches, "max_epochs": 2, **changes})
    trainer.logger.disabled = True
    return trainer


def stopped(trainer: Any) -> tuple[str, dict[str, list[Tensor]]]:
    """The message, and student and teacher as they were before the last iteration and are now."""
    before: dict[str, list[Tensor]] = {}

    def keep() -> None:
        before.update(
            student=[tensor.clone() for tensor in trainer.student.state_dict().values()],
            teacher=[tensor.clone() for tensor in trainer.teacher.state_dict().values()],
        )

    trainer.add_event_handler(Events.ITERATION_STARTED, keep)
    with pytest.raises(NonFiniteError, match="Training stops") as caught:
        trainer.run()
    return str(caught.value), before


def unchanged(module: nn.Module, before: list[Tensor]) -> bool:
    return all(torch.equal(old, new) for old, new in zip(before, module.state_dict().values(), strict=True))


@pytest.mark.parametrize("max_grad_norm", [None, 5.0])
@pytest.mark.parametrize("term", ["labeled_segmentation", "unlabeled_segmentation", "commitment"])
def test_a_term_of_the_loss(term, max_grad_norm):
    trainer = guarded(loss_function=SpoiltLoss(2, term), max_grad_norm=max_grad_norm)
    message, before = stopped(trainer)
    assert trainer.state.iteration == 2
    assert message.startswith(f"Training stops in iteration 2: the loss is nan (terms: {term} nan). No weight has been")
    assert "Files of the batch: labelled l1_0.nii, l1_1.nii; unlabelled u1_0.nii, u1_1.nii, u1_2.nii." in message
    assert message.endswith("No epoch was completed, so there is no model yet.")
    assert unchanged(trainer.student, before["student"])
    assert unchanged(trainer.teacher, before["teacher"])


def test_after_a_whole_epoch_it_says_how_to_go_on():
    message, _ = stopped(guarded(loss_function=SpoiltLoss(4, "commitment")))
    assert message.startswith("Training stops in iteration 4: ")
    assert message.endswith("What was saved last is kept; --resume true goes on from there.")


@pytest.mark.parametrize("max_grad_norm", [None, 5.0])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_gradient(factor, max_grad_norm):
    trainer = guarded(max_grad_norm=max_grad_norm)
    weight = trainer.student.code_projection.weight
    weight.register_hook(lambda gradient: gradient * factor if trainer.state.iteration == 3 else gradient)
    message, before = stopped(trainer)
    assert message.startswith(f"Training stops in iteration 3: the norm of the gradients is {factor}, the loss ")
    assert "labelled l2_0.nii, l2_1.nii; unlabelled u0_0.nii" in message
    assert unchanged(trainer.student, before["student"])


@pytest.mark.parametrize("name", ["code_projection.weight", "quantizer.codebook.embedding"])
def test_a_weight_that_the_optimiser_spoils_does_not_reach_the_teacher(name):
    trainer = guarded()
    tensors = {**dict(trainer.student.named_parameters()), **dict(trainer.student.named_buffers())}
    target = tensors[name] if name in tensors else next(value for key, value in tensors.items() if "codebook" in key)
    name = next(key for key, value in tensors.items() if value is target)

    def spoil(*_: Any) -> None:
        if trainer.state.iteration == 2:
            target.data.view(-1)[0] = math.inf

    trainer.optimizer.register_step_post_hook(spoil)
    message, before = stopped(trainer)
    start = (
        f"Training stops in iteration 2: the step has left weights that are not finite: network.{name}. They are not"
    )
    assert message.startswith(start)
    assert unchanged(trainer.teacher, before["teacher"])


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_a_weight_that_was_spoilt_before_the_step(model):
    trainer = guarded()
    module = trainer.student if model == "student" else trainer.teacher.module

    def spoil() -> None:
        module.code_projection.weight.data[0] = math.nan

    trainer.add_event_handler(Events.ITERATION_STARTED(once=2), spoil)
    message, _ = stopped(trainer)
    what = "the loss is nan (terms: " if model == "student" else "pseudo-labels are not finite. "
    assert message.startswith(f"Training stops in iteration 2: {what}")
    name = "network.code_projection.weight" if model == "student" else "teacher.module.code_projection.weight"
    assert f"Weights that are not finite: {name}" in message


def _spoil(batches: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The second batch's second entry, and the third one where there is one, of the same file."""
    copy = [dict(batch) for batch in batches]
    copy[1][key] = copy[1][key].clone()
    copy[1][key][1:, 0, 3, 3] = math.nan
    copy[1]["source"] = [*copy[1]["source"][:2], copy[1]["source"][1]][: len(copy[1]["source"])]
    return copy


@pytest.mark.parametrize(
    ("changes", "what", "file"),
    [
        ({"train_data_loader": _spoil(LABELED, "strong")}, "the loss is nan (terms: ", "l1_1.nii (labelled)"),
        ({"unlabeled_data_loader": _spoil(UNLABELED, "strong")}, "the loss is nan (terms: ", "u1_1.nii (unlabelled)"),
        ({"unlabeled_data_loader": _spoil(UNLABELED, "image")}, "pseudo-labels are not", "u1_1.nii (unlabelled)"),
    ],
)
def test_an_image_of_a_batch_is_named_alone(changes, what, file):
    trainer = guarded(**changes)
    message, before = stopped(trainer)
    assert message.startswith(f"Training stops in iteration 2: {what}")
    assert f"Not finite after preprocessing: {file}. Mend these files or leave them out" in message
    assert unchanged(trainer.student, before["student"])


def test_batches_that_name_no_files():
    message, _ = stopped(make_trainer(loss_function=SpoiltLoss(1, "commitment")))
    assert "Files of the batch: not known" in message


class _Asked:
    """A handler of errors that lets them pass, as MONAI's would log a traceback."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.EXCEPTION_RAISED, lambda _, error: self.errors.append(error))


def test_no_other_handler_is_asked_and_other_errors_still_come_through():
    asked = _Asked()
    stopped(guarded(loss_function=SpoiltLoss(2, "commitment"), train_handlers=[asked]))
    assert asked.errors == []
    failing = guarded(train_handlers=[asked])
    failing.add_event_handler(Events.ITERATION_STARTED(once=2), lambda: [][0])
    with pytest.raises(IndexError, match="list index out of range"):
        failing.run()
    assert {type(error) for error in asked.errors} == {IndexError}


def test_a_scale_that_overflows_comes_down_without_a_stop():
    """PyTorch's scaler for the CPU, as MONAI's engines use it on CUDA; only a loss that is not finite stops."""
    trainer = guarded(max_grad_norm=5.0)
    trainer.loss_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-60)
    trainer.guard.scaled = True
    trainer.student.code_projection.weight.register_hook(lambda gradient: gradient * 1e3)  # overflows at first
    steps: list[int] = []
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(trainer.state.iteration))
    trainer.run()
    assert steps == [2, 3, 4, 5, 6]
    trainer = guarded(loss_function=SpoiltLoss(2, "commitment"))
    trainer.loss_scaler = torch.amp.GradScaler("cpu")
    trainer.guard.scaled = True
    message, _ = stopped(trainer)
    assert message.startswith("Training stops in iteration 2: the loss is nan (terms: commitment nan).")


def _guard(scaled: bool) -> Callable[[float, float], None]:
    guard = StepGuard(nn.Linear(1, 1), nn.Linear(1, 1), epoch_length=5, scaled=scaled)
    guard.begin(1, {}, None)
    terms = VQSegLoss  # never read while the loss is finite
    return lambda loss, norm: guard.check_gradients(torch.tensor(loss), torch.tensor(norm), terms, None)


def test_a_loss_scaler_may_skip_steps_and_many_in_a_row_are_one_warning(caplog):
    step = _guard(scaled=True)
    for _ in range(19):
        step(1.0, math.inf)
    step(1.0, 1.0)
    for _ in range(19):
        step(1.0, math.nan)
    assert caplog.records == []
    for _ in range(30):
        step(1.0, math.inf)
    (record,) = caplog.records
    assert record.getMessage().startswith("20 steps in a row were skipped, up to iteration 1: the gradients overflow")
    with pytest.raises(NonFiniteError, match="the norm of the gradients is inf, the loss 1"):
        _guard(scaled=False)(1.0, math.inf)
