from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from vqseg_bundle.losses import LossTerms, SegmentationLoss, VQSegLoss, VQSegTargets

LOG2 = math.log(2.0)


class FakeOutput(NamedTuple):
    """What the loss reads of a student."""

    labeled_logits: Tensor
    unlabeled_logits: Tensor
    reconstruction: Tensor
    adapted: Tensor
    commitment_loss: Tensor
    entropy_loss: Tensor


def _logits(*probabilities: float) -> Tensor:
    """Logits ``(1, 2, 1, n)`` whose softmax gives class 1 the given probabilities."""
    share = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack((torch.log1p(-share), share.log())).view(1, 2, 1, -1).float()


def _row(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, -1)


def _output(semi_supervised: bool = True) -> FakeOutput:
    """Cross-entropy log 4 on labels and log 2 on pseudo-labels; L1 errors 1 and 3; one uniform alignment."""
    reconstruction = torch.stack((torch.full((1, 1, 2), 1.0), torch.full((1, 1, 2), -3.0)))
    return FakeOutput(
        labeled_logits=_logits(0.25, 0.25).requires_grad_(),
        unlabeled_logits=_logits(0.5, 0.5).requires_grad_(),
        reconstruction=reconstruction[: 1 + semi_supervised].clone().requires_grad_(),
        adapted=torch.ones(1 + semi_supervised, 4, 2, 2),
        commitment_loss=torch.tensor(5.0),
        entropy_loss=torch.tensor(-7.0),
    )


def _targets(semi_supervised: bool = True, confidence: tuple[float, float] = (1.0, 1.0)) -> VQSegTargets:
    count = 1 + semi_supervised
    return VQSegTargets(
        images=torch.zeros(count, 1, 1, 2),
        labels=torch.tensor([[[1, 1]]]),
        pseudo_labels=torch.tensor([[[0, 1]]]) if semi_supervised else torch.empty(0),
        confidence=_row(*confidence) if semi_supervised else torch.empty(0),
        foundation_features=torch.ones(count, 4, 2, 2),
    )


def _values(terms: LossTerms) -> dict[str, float]:
    return {name: value.item() for name, value in terms._asdict().items()}


# segmentation


def test_cross_entropy_by_hand():
    loss = SegmentationLoss()(_logits(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]]))
    assert loss.item() == pytest.approx((math.log(4) + LOG2 - math.log(0.9)) / 3, rel=1e-6)


def test_masked_cross_entropy_is_averaged_over_all_voxels():
    mask = torch.tensor([[[True, False, False]]])
    loss = SegmentationLoss()(_logits(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]]), mask)
    assert loss.item() == pytest.approx(math.log(4) / 3, rel=1e-6)


def test_dice_term_by_hand():
    """Foreground: 1 - 2 (0.25 + 0.9) / ((0.25 + 0.5 + 0.9) + 2)."""
    logits, target = _logits(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]])
    cross_entropy = SegmentationLoss()(logits, target)
    loss = SegmentationLoss(lambda_dice=0.5)(logits, target)
    assert (loss - cross_entropy).item() == pytest.approx(0.5 * (1 - 2.3 / 3.65), rel=1e-4)


def test_masked_dice_leaves_out_the_masked_voxels():
    """Kept: the first and the second; 1 - 2 * 0.25 / ((0.25 + 0.5) + 1)."""
    logits, target = _logits(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]])
    mask = torch.tensor([[[True, True, False]]])
    dice = SegmentationLoss(lambda_dice=1.0)(logits, target, mask) - SegmentationLoss()(logits, target, mask)
    assert dice.item() == pytest.approx(1 - 0.5 / 1.75, rel=1e-4)


def test_dice_pools_the_batch_so_that_an_empty_slice_costs_nothing_of_its_own():
    """Two slices, the second without the structure: 1 - 2 * 0.5 / (0.5 + 0.25 + 1), not the mean of two losses."""
    logits = torch.cat((_logits(0.5), _logits(0.25)))
    target = torch.tensor([[[1]], [[0]]])
    dice = SegmentationLoss(lambda_dice=1.0)(logits, target) - SegmentationLoss()(logits, target)
    assert dice.item() == pytest.approx(1 - 1.0 / 1.75, rel=1e-4)


def test_masked_voxels_get_no_gradient():
    logits = _logits(0.25, 0.5, 0.9).requires_grad_()
    mask = torch.tensor([[[True, True, False]]])
    SegmentationLoss(lambda_dice=1.0)(logits, torch.tensor([[[1, 0, 1]]]), mask).backward()
    assert (logits.grad[..., :2] != 0).all()
    assert (logits.grad[..., 2] == 0).all()


def test_half_precision_logits_are_summed_in_float32():
    loss = SegmentationLoss(lambda_dice=1.0)(_logits(0.5, 0.5).bfloat16(), torch.tensor([[[1, 0]]]))
    assert loss.dtype is torch.float32


def test_volumes_are_taken_too():
    logits = torch.zeros(2, 4, 3, 3, 2)
    target = torch.randint(4, (2, 3, 3, 2))
    assert SegmentationLoss()(logits, target).item() == pytest.approx(math.log(4), rel=1e-6)


def test_negative_lambda_dice_is_refused():
    with pytest.raises(ValueError, match=r"lambda_dice must not be negative, got -0.5"):
        SegmentationLoss(lambda_dice=-0.5)


# the weighted sum


def test_every_term_and_the_total_by_hand():
    loss = VQSegLoss(lambda_u=2.0, lambda_reconstruction=0.1, lambda_a=5.0, lambda_commitment=0.25, lambda_entropy=0.5)
    values = _values(loss(_output(), _targets(), ramp=0.5))
    expected = {
        "labeled_segmentation": math.log(4),
        "unlabeled_segmentation": LOG2,
        "labeled_reconstruction": 1.0,
        "unlabeled_reconstruction": 3.0,
        "alignment": math.log(4),  # four patches that look all the same
        "commitment": 5.0,
        "code_entropy": -7.0,
    }
    total = math.log(4) + 0.1 * 1.0 + 0.5 * 2.0 * (LOG2 + 0.1 * 3.0) + 5.0 * math.log(4) + 0.25 * 5.0 - 0.5 * 7.0
    assert values == pytest.approx({"total": total, **expected}, rel=1e-5)


def test_the_defaults_are_the_papers_weights():
    values = _values(VQSegLoss()(_output(), _targets()))
    total = math.log(4) + 1.0 + (LOG2 + 3.0) + 5.0 * math.log(4) + 5.0
    assert values["total"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("ramp", [0.0, 0.3, 1.0])
def test_the_ramp_multiplies_the_unlabelled_terms_alone(ramp):
    loss = VQSegLoss(lambda_u=2.0, lambda_reconstruction=0.5)
    full, none = (_values(loss(_output(), _targets(), ramp=value)) for value in (1.0, 0.0))
    values = _values(loss(_output(), _targets(), ramp=ramp))
    unlabeled = 2.0 * (LOG2 + 0.5 * 3.0)
    assert full["total"] - none["total"] == pytest.approx(unlabeled, rel=1e-5)
    assert values["total"] == pytest.approx(none["total"] + ramp * unlabeled, rel=1e-5)
    # the named terms are unweighted
    assert {**values, "total": 0.0} == {**full, "total": 0.0}


def test_gradients_carry_the_weights():
    output = _output()
    VQSegLoss(lambda_u=2.0, lambda_reconstruction=0.1)(output, _targets(), ramp=0.5).total.backward()
    # L1 of two pixels each: sign / 2, times lambda_r, and times ramp * lambda_u for the unlabelled image
    torch.testing.assert_close(output.reconstruction.grad[0], torch.full((1, 1, 2), 0.05))
    torch.testing.assert_close(output.reconstruction.grad[1], torch.full((1, 1, 2), -0.05))
    # cross-entropy of two pixels: (p - y) / 2
    torch.testing.assert_close(output.labeled_logits.grad[0, 1], torch.full((1, 2), -0.75 / 2))
    torch.testing.assert_close(output.unlabeled_logits.grad[0, 1], torch.tensor([[0.25, -0.25]]))


def test_without_unlabelled_images_their_terms_are_0():
    values = _values(VQSegLoss(lambda_a=0.0)(_output(False), _targets(False)))
    assert values["unlabeled_segmentation"] == values["unlabeled_reconstruction"] == 0.0
    assert values["total"] == pytest.approx(math.log(4) + 1.0 + 5.0, rel=1e-5)


def test_without_image_decoder_and_adapter_their_terms_are_0():
    output = _output()._replace(reconstruction=torch.empty(0), adapted=torch.empty(0))
    targets = _targets()._replace(foundation_features=torch.empty(0))
    values = _values(VQSegLoss()(output, targets))
    for name in ("labeled_reconstruction", "unlabeled_reconstruction", "alignment"):
        assert values[name] == 0.0
    assert values["total"] == pytest.approx(math.log(4) + LOG2 + 5.0, rel=1e-5)


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [(0.0, 2), (0.5, 2), (0.75, 1), (0.76, 0)],  # confidences 0.5 and 0.75: equal to the threshold is kept
)
def test_the_threshold_keeps_what_reaches_it(threshold, kept):
    targets = _targets(confidence=(0.5, 0.75))
    terms = VQSegLoss(confidence_threshold=threshold)(_output(), targets)
    assert terms.unlabeled_segmentation.item() == pytest.approx(kept / 2 * LOG2, rel=1e-6)
    assert terms.labeled_segmentation.item() == pytest.approx(math.log(4), rel=1e-6)


def test_the_given_losses_are_used():
    class Constant(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, *inputs: Tensor) -> Tensor:
            return torch.tensor(self.value)

    loss = VQSegLoss(segmentation_loss=Constant(2.0), alignment_loss=Constant(3.0))
    values = _values(loss(_output(), _targets()))
    assert (values["labeled_segmentation"], values["unlabeled_segmentation"], values["alignment"]) == (2.0, 2.0, 3.0)


def test_every_term_is_a_float32_scalar_under_autocast():
    output = FakeOutput(*(value.bfloat16() for value in _output()))._replace(
        commitment_loss=torch.tensor(5.0), entropy_loss=torch.tensor(-7.0)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = VQSegLoss(segmentation_loss=SegmentationLoss(lambda_dice=1.0))(output, _targets())
    for name, value in terms._asdict().items():
        assert value.dtype is torch.float32, name
        assert value.shape == (), name


@pytest.mark.parametrize(
    "name", ["lambda_u", "lambda_reconstruction", "lambda_a", "lambda_commitment", "lambda_entropy"]
)
def test_negative_weights_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must not be negative, got -1"):
        VQSegLoss(**{name: -1.0})


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"confidence_threshold must lie in \[0, 1\], got {threshold}"):
        VQSegLoss(confidence_threshold=threshold)
