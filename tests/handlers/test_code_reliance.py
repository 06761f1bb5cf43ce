"""Reliance on the codes as a training's metric, and predictions from another case's codes in an evaluation."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer
from support.training_parts import labeled_batches, make_student, make_trainer

from vqseg_bundle.handlers import CodeRelianceMonitor, DecoderProbe
from vqseg_bundle.networks import code_reliance


def test_each_epoch_is_measured_on_what_the_student_saw_last():
    student = make_student()
    trainer = make_trainer(student, max_epochs=2)
    seen = []

    def measure(images):
        seen.append(images)
        return code_reliance(trainer.teacher.module, images)

    CodeRelianceMonitor(measure).attach(trainer)
    trainer.run()
    assert [len(images) for images in seen] == [5, 5]  # 2 labelled, 3 unlabelled
    assert torch.equal(seen[-1][:2], labeled_batches()[-1]["strong"])
    expected = code_reliance(trainer.teacher.module, seen[-1])
    assert trainer.state.metrics["code_reliance"] == expected.codes.item() > 0
    assert trainer.state.metrics["skip_reliance"] == expected.skips.item() > 0


def test_it_changes_nothing_in_the_training():
    weights = []
    for measured in (False, True):
        student = make_student()
        trainer = make_trainer(student)
        if measured:
            CodeRelianceMonitor(partial(code_reliance, trainer.teacher.module)).attach(trainer)
        trainer.run()
        weights.append(list(student.state_dict().values()))
    assert all(map(torch.equal, *weights))


def test_a_single_image_has_no_other_to_exchange_with():
    batches = [{key: value[:1] for key, value in batch.items()} for batch in labeled_batches()]
    trainer = make_trainer(train_data_loader=batches, unlabeled_data_loader=None)
    CodeRelianceMonitor(lambda images: pytest.fail("measured")).attach(trainer)
    trainer.run()
    assert "code_reliance" not in trainer.state.metrics


class Second(torch.nn.Module):
    """Of a pair, the image that gives the codes."""

    def forward(self, pair):
        return pair[:, 1:]


class Zeros(torch.nn.Module):
    def forward(self, image):
        return torch.zeros_like(image)


def _probed(images: list[torch.Tensor], shares: list[torch.Tensor] | None = None, **of: int) -> list[dict[str, Any]]:
    """Outputs of an evaluator that predicts the image itself."""
    outputs: list[dict[str, Any]] = []

    def step(engine, image):
        engine.state.output = {"image": image[None], "pred": image[None].clone()}
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        outputs.append(engine.state.output)
        return engine.state.output

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    dataset = [{"image": image} for image in images]
    DecoderProbe(Second(), Zeros(), SimpleInferer(), dataset, **of).attach(engine)
    engine.run(shares or images)
    return outputs


@pytest.mark.parametrize("size", [(2, 2), (2, 2, 2)])
def test_the_other_case_lies_half_the_dataset_further_on(size):
    outputs = _probed([torch.full((1, *size), float(number)) for number in range(5)])
    assert [output["pred_other_codes"].unique().tolist() for output in outputs] == [[2], [3], [4], [0], [1]]
    assert all(output["pred_other_codes"].shape == (1, 1, *size) for output in outputs)
    assert all((output["pred_without_skips"] == 0).all() for output in outputs)
    assert [output["pred"].unique().tolist() for output in outputs] == [[0], [1], [2], [3], [4]]


def test_it_is_resampled_to_the_size_of_the_case():
    first, second = _probed([torch.zeros(1, 2, 2, 4), torch.ones(1, 6, 3, 2)])
    assert torch.equal(first["pred_other_codes"], torch.ones(1, 1, 2, 2, 4))
    assert torch.equal(second["pred_other_codes"], torch.zeros(1, 1, 6, 3, 2))


def test_several_processes_take_the_same_other_cases_as_one():
    images = [torch.full((1, 2, 2), float(number)) for number in range(3)]
    (alone,) = _probed(images, images[1::2], rank=1, num_processes=2)
    assert alone["pred_other_codes"].unique().tolist() == [2]
    first, second = _probed(images, images[::2], rank=0, num_processes=2)
    assert [output["pred_other_codes"].unique().tolist() for output in (first, second)] == [[1], [0]]


def test_no_case_is_its_own_other_case():
    """Two cases that follow each other may show the same image."""
    images = [torch.full((1, 2, 2), float(number)) for number in (0, 1, 0, 2)]
    outputs = _probed(images)
    assert [output["pred_other_codes"].unique().tolist() for output in outputs] == [[2], [2], [1], [1]]


def test_a_single_case_is_refused():
    with pytest.raises(ValueError, match="at least 2 cases to exchange codes between, got 1"):
        DecoderProbe(Second(), Second(), SimpleInferer(), [{"image": torch.zeros(1, 2, 2)}])
