from __future__ import annotations

import pytest
import torch
from torch import nn

from vqseg_bundle.engines import EMATeacher


def _student() -> nn.Linear:
    student = nn.Linear(2, 1)
    nn.init.zeros_(student.weight)
    nn.init.zeros_(student.bias)
    return student


def _increment(student: nn.Module) -> None:
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1.0


class Segmenter(nn.Module):
    """Two classes; batch norm and dropout, so that mode and buffers matter."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))
        self.register_buffer("codes", torch.arange(3))

    def forward(self, images):
        return self.layers(images)


def test_average_of_a_student_that_grows_by_1_each_step():
    """alpha_t = min(0.6, 1 - 1/(t + 1)) = 1/2, 0.6, 0.6 after the copy: 0.5, 0.5*0.6 + 0.8, 1.1*0.6 + 1.2."""
    student = _student()
    teacher = EMATeacher(student, decay=0.6)
    teacher.update_parameters(student)
    for expected in (0.5, 1.1, 1.86):
        _increment(student)
        teacher.update_parameters(student)
        torch.testing.assert_close(teacher.module.weight, torch.full((1, 2), expected))
        torch.testing.assert_close(teacher.module.bias, torch.full((1,), expected))


def test_warm_up_is_the_plain_mean_of_all_students_so_far():
    """While 1 - 1/(t + 1) is the smaller one, the average of 0, 1, ..., t is t / 2."""
    student = _student()
    teacher = EMATeacher(student, decay=0.99)
    teacher.update_parameters(student)
    for step in range(1, 90):
        _increment(student)
        teacher.update_parameters(student)
        assert teacher.module.bias.item() == pytest.approx(step / 2, rel=1e-5)


def test_after_the_warm_up_decay_alone_rules():
    student = _student()
    teacher = EMATeacher(student, decay=0.9)
    teacher.n_averaged.fill_(1000)
    _increment(student)
    teacher.update_parameters(student)
    assert teacher.module.bias.item() == pytest.approx(0.1, rel=1e-5)


def test_decay_0_follows_the_student_exactly():
    student = _student()
    teacher = EMATeacher(student, decay=0.0)
    for _ in range(3):
        _increment(student)
        teacher.update_parameters(student)
        assert torch.equal(teacher.module.weight, student.weight)


def test_floating_buffers_are_averaged_and_integer_ones_copied():
    student = Segmenter()
    teacher = EMATeacher(student, decay=0.75)
    teacher.n_averaged.fill_(100)
    student.layers[1].running_mean.fill_(4.0)
    student.layers[1].num_batches_tracked.fill_(7)
    student.codes.copy_(torch.tensor([5, 3, 4]))
    teacher.update_parameters(student)
    assert teacher.module.layers[1].running_mean.tolist() == [1.0, 1.0]
    assert teacher.module.layers[1].num_batches_tracked.item() == 7
    assert teacher.module.codes.tolist() == [5, 3, 4]


def test_nothing_is_shared_with_the_student():
    student = Segmenter()
    teacher = EMATeacher(student)
    for _ in range(3):
        teacher.update_parameters(student)
        own = {tensor.data_ptr() for tensor in teacher.module.state_dict().values()}
        theirs = {tensor.data_ptr() for tensor in student.state_dict().values()}
        assert len(own) == len(theirs) == len(student.state_dict())
        assert own.isdisjoint(theirs)


def test_the_student_is_left_as_it_is():
    student = Segmenter()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    teacher = EMATeacher(student)
    teacher.update_parameters(student)
    teacher.pseudo_label(torch.randn(2, 1, 4, 4))
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


def test_the_teacher_stays_in_eval_mode_and_without_gradient():
    teacher = EMATeacher(Segmenter())
    for mode in (True, False):
        assert teacher.train(mode) is teacher
        assert not any(module.training for module in teacher.modules())
    nn.ModuleList([teacher]).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_pseudo_labels_are_argmax_and_its_probability():
    network = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
        network.bias.zero_()
    pseudo = EMATeacher(network).pseudo_label(torch.tensor([[[[1.0, -2.0]]]]))
    labels = pseudo.labels
    assert labels.tolist() == [[[1, 0]]]
    assert labels.dtype is torch.int64
    expected = torch.sigmoid(torch.tensor([[[1.0, 2.0]]]))
    torch.testing.assert_close(pseudo.confidence, expected)
    torch.testing.assert_close(pseudo.probabilities[:, 1], torch.sigmoid(torch.tensor([[[1.0, -2.0]]])))
    assert pseudo.entropy.numel() == 0


def test_confidence_is_float32_under_autocast():
    teacher = EMATeacher(Segmenter())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pseudo = teacher.pseudo_label(torch.randn(2, 1, 4, 4))
    assert pseudo.confidence.dtype is torch.float32
    assert pseudo.labels.shape == (2, 4, 4)


def test_pseudo_labels_can_take_part_in_a_backward_pass():
    student = Segmenter().eval()
    images = torch.randn(2, 1, 4, 4)
    pseudo = EMATeacher(student).pseudo_label(images)
    assert not pseudo.probabilities.is_inference()
    loss = nn.functional.cross_entropy(student(images), pseudo.labels, reduction="none") * pseudo.confidence
    loss.mean().backward()
    assert (student.layers[0].weight.grad.abs() > 0).any()


def test_the_state_dict_holds_the_count_so_that_a_resumed_teacher_goes_on():
    student = _student()
    teacher, resumed = EMATeacher(student, 0.9), EMATeacher(student, 0.9)
    for _ in range(3):
        _increment(student)
        teacher.update_parameters(student)
    resumed.load_state_dict(teacher.state_dict())
    _increment(student)
    teacher.update_parameters(student)
    resumed.update_parameters(student)
    assert torch.equal(resumed.module.weight, teacher.module.weight)
    assert resumed.n_averaged.item() == 4


@pytest.mark.parametrize("decay", [1.0, -0.1, 2.0])
def test_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=rf"decay must lie in \[0, 1\), got {decay}"):
        EMATeacher(_student(), decay)
