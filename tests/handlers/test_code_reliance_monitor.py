"""Reliance on the codes as a training's metric."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from support.training_parts import labeled_batches, make_student, make_trainer

from vqseg_bundle.handlers import CodeRelianceMonitor
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
