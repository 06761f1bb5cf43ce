"""The student as its own pseudo-labeller, and the teacher that knows how sure it is."""

from __future__ import annotations

import math

import pytest
import torch
from support.training_parts import make_student, make_trainer
from torch import Tensor, nn

from vqseg_bundle.engines import EMATeacher, MonteCarloTeacher, StudentPseudoLabeler


class Segmenter(nn.Module):
    """Two classes; batch norm and dropout, so that mode and buffers matter."""

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.dropout = nn.Dropout(rate)

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(self.norm(self.conv(images)))


def _images(count: int = 3) -> Tensor:
    return torch.randn(count, 1, 4, 5, generator=torch.Generator().manual_seed(0))


# the student


def test_the_student_labels_in_eval_mode():
    student = Segmenter().train()
    student.norm.running_mean.fill_(0.3)
    pseudo = StudentPseudoLabeler(student).pseudo_label(_images())
    expected = student.eval()(_images()).softmax(dim=1)
    torch.testing.assert_close(pseudo.probabilities, expected)
    assert torch.equal(pseudo.labels, expected.argmax(dim=1))
    torch.testing.assert_close(pseudo.confidence, expected.amax(dim=1))
    assert pseudo.entropy.numel() == 0


def test_labelling_leaves_the_students_modes_and_buffers():
    student = Segmenter().train()
    student.norm.eval()  # a frozen part stays frozen
    before = {key: value.clone() for key, value in student.state_dict().items()}
    StudentPseudoLabeler(student).pseudo_label(_images())
    assert [student.training, student.conv.training, student.norm.training] == [True, True, False]
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


def test_modes_come_back_after_an_error():
    student = Segmenter().train()
    with pytest.raises(RuntimeError, match="expected input"):
        StudentPseudoLabeler(student).pseudo_label(torch.randn(1, 3, 4, 4))
    assert all(module.training for module in student.modules())


def test_the_students_labels_carry_no_gradient_and_can_meet_one():
    student = Segmenter()
    pseudo = StudentPseudoLabeler(student).pseudo_label(_images())
    assert not pseudo.probabilities.requires_grad
    (student(_images()).softmax(dim=1) - pseudo.probabilities).square().mean().backward()
    assert (student.conv.weight.grad.abs() > 0).any()


def test_under_autocast_the_students_own_labels_leave_its_gradient():
    """Weights that older versions of autocast cast without gradient stayed in its cache."""
    student = nn.Conv2d(1, 2, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pseudo = StudentPseudoLabeler(student).pseudo_label(_images())
        loss = (student(_images()).float().softmax(dim=1) - 1.1 * pseudo.probabilities).square().mean()
    loss.backward()
    assert (student.weight.grad.abs() > 0).any()


def test_a_trainer_takes_its_students_labels():
    student = make_student()
    found = []
    trainer = make_trainer(student, pseudo_labeler=StudentPseudoLabeler(student), epoch_length=1, amp=True)
    trainer.teacher.pseudo_label = lambda *_: pytest.fail("the teacher was asked")
    weights = [name for name, _ in student.named_parameters()]
    trainer.optimizer.register_step_pre_hook(
        lambda *_: found.extend(name for name, value in student.named_parameters() if (value.grad.abs() > 0).any())
    )
    trainer.run()
    assert [name for name in weights if name.endswith("weight") and name not in found] == []


# the teacher with dropout


def _biased(rate: float) -> Segmenter:
    """Logits (b, 0) everywhere, of which dropout sets each to 0 or doubles it."""
    network = Segmenter(rate)
    with torch.no_grad():
        network.conv.weight.zero_()
        network.conv.bias.copy_(torch.tensor([2.0, 0.0]))
    network.norm = nn.Identity()
    return network


def test_the_entropy_is_that_of_the_mean_over_the_passes():
    """Half of the passes say sigmoid(4), the others 1/2: the mean over many is their average."""
    teacher = MonteCarloTeacher(EMATeacher(_biased(0.5)), samples=4000)
    torch.manual_seed(0)
    pseudo = teacher.pseudo_label(torch.zeros(1, 1, 2, 3))
    mean = 0.5 * torch.sigmoid(torch.tensor(4.0)).item() + 0.25
    entropy = -mean * math.log(mean) - (1 - mean) * math.log(1 - mean)
    torch.testing.assert_close(pseudo.entropy, torch.full((1, 2, 3), entropy), rtol=0.02, atol=0)
    # the target is one pass more
    sharp = torch.sigmoid(torch.tensor(4.0))
    assert all(
        value in (pytest.approx(0.5), pytest.approx(sharp.item())) for value in pseudo.confidence.flatten().tolist()
    )


def test_eight_passes_and_one_for_the_target_each_with_its_noise():
    seen: list[Tensor] = []
    teacher = EMATeacher(Segmenter())
    teacher.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = _images()
    MonteCarloTeacher(teacher).pseudo_label(images, torch.Generator().manual_seed(1))
    assert len(seen) == 9
    noise = torch.stack([noisy - images for noisy in seen])
    assert noise.abs().max().item() == pytest.approx(0.2, abs=1e-6)  # reached by 5 % of the draws
    assert all(not torch.equal(noise[0], other) for other in noise[1:])
    # a normal variable cut at two standard deviations has a deviation of 0.960 of its own
    assert noise.std().item() == pytest.approx(0.096, rel=0.1)


def test_noise_follows_the_generator():
    teacher = MonteCarloTeacher(EMATeacher(Segmenter(1e-9)))
    first, again, other = (
        teacher.pseudo_label(_images(), torch.Generator().manual_seed(seed)).probabilities for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_noise_dropout_alone_tells_the_passes_apart():
    plain = EMATeacher(Segmenter())
    teacher = MonteCarloTeacher(plain, noise_std=0.0)
    torch.manual_seed(0)
    pseudo = teacher.pseudo_label(_images())
    assert not torch.equal(pseudo.probabilities, plain.pseudo_label(_images()).probabilities)
    assert not pseudo.probabilities.is_inference()
    assert not pseudo.entropy.is_inference()


def test_only_dropout_is_on_and_all_is_eval_afterwards():
    teacher = EMATeacher(Segmenter())
    modes: list[tuple[bool, bool]] = []
    teacher.module.register_forward_hook(
        lambda module, *_: modes.append((module.dropout.training, module.norm.training))
    )
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    MonteCarloTeacher(teacher).pseudo_label(_images())
    assert set(modes) == {(True, False)}
    assert not any(module.training for module in teacher.modules())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_a_teacher_without_dropout_is_refused():
    with pytest.raises(ValueError, match="must have dropout layers for its uncertainty, it has none; give network_def"):
        MonteCarloTeacher(EMATeacher(make_student(dropout=0.0)))
    assert MonteCarloTeacher(EMATeacher(make_student(dropout=0.1))).samples == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"noise_std": -0.1}, "noise_std and noise_bound must not be negative, got -0.1 and 0.2"),
        ({"noise_bound": -1.0}, "noise_std and noise_bound must not be negative, got 0.1 and -1.0"),
    ],
)
def test_arguments_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        MonteCarloTeacher(EMATeacher(Segmenter()), **changes)
