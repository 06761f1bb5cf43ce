"""The teacher within a training: where it starts, how it follows the student, and what it labels."""

from __future__ import annotations

import pytest
import torch
from monai.handlers import CheckpointLoader
from support.training_parts import WEIGHTS, labeled_batches, make_student, make_trainer, unlabeled_batches

from vqseg_bundle.engines import STRONG, EMATeacher
from vqseg_bundle.losses import VQSegLoss, VQSegTargets


def test_the_teacher_starts_from_weights_that_a_handler_loads(tmp_path):
    """MONAI Label inserts such a handler; the teacher was copied from the random student long before."""
    loaded, student = make_student(seed=9), make_student(seed=0)
    torch.save(loaded.state_dict(), tmp_path / "model.pt")
    trainer = make_trainer(
        student,
        optimizer=torch.optim.SGD(student.parameters(), lr=0.0),
        train_handlers=[CheckpointLoader(str(tmp_path / "model.pt"), {"model": student}, strict=False)],
    )
    trainer.teacher.n_averaged.fill_(50)  # as after an earlier training with the same objects
    trainer.run()
    for key, value in trainer.teacher.module.state_dict().items():
        torch.testing.assert_close(value, loaded.state_dict()[key])


def test_the_teacher_follows_after_each_step():
    trainer = make_trainer(epoch_length=1)
    start = trainer.student.code_projection.weight.detach().clone()
    trainer.run()
    after = trainer.student.code_projection.weight
    torch.testing.assert_close(trainer.teacher.module.code_projection.weight, (start + after) / 2)
    assert trainer.teacher.n_averaged.item() == 2


def test_pseudo_labels_are_the_teachers_on_the_weak_view():
    found: list[VQSegTargets] = []
    loss = VQSegLoss(**WEIGHTS)

    def keep_targets(output, targets, ramp):
        found.append(targets)
        return loss(output, targets, ramp)

    trainer = make_trainer(epoch_length=1, loss_function=keep_targets)
    expected = EMATeacher(trainer.student).pseudo_label(unlabeled_batches()[0]["image"])
    trainer.run()
    assert torch.equal(found[0].pseudo_probabilities, expected.probabilities)
    assert found[0].entropy.numel() == 0
    assert found[0].stream_weights == (1.0,)
    assert torch.equal(found[0].images, torch.cat((labeled_batches()[0][STRONG], unlabeled_batches()[0][STRONG])))


def test_without_unlabelled_data_the_training_is_supervised():
    trainer = make_trainer(unlabeled_data_loader=None)
    trainer.teacher.pseudo_label = lambda _: pytest.fail("the teacher was asked")
    trainer.run()
    assert trainer.state.output["student"].unlabeled_logits.shape[0] == 0
    assert trainer.state.output["terms"].unlabeled_segmentation.item() == 0.0
    assert trainer.teacher.n_averaged.item() == 4
