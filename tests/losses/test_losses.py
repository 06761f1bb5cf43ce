"""The losses of labelled images, and how all terms are weighed."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from support.layer_parts import LOG2, logits_of, opinion_of
from torch import Tensor, nn

from vqseg_bundle.losses import LossTerms, PseudoLabelLoss, SegmentationLoss, VQSegLoss, VQSegTargets


class FakeOutput(NamedTuple):
    """What the loss reads of a student."""

    labeled_logits: Tensor
    unlabeled_logits: Tensor
    reconstruction: Tensor
    adapted: Tensor
    commitment_loss: Tensor
    entropy_loss: Tensor


def _output(semi_supervised: bool = True) -> FakeOutput:
    """Cross-entropy log 4 on labels and log 2 on pseudo-labels; L1 errors 1 and 3; one uniform alignment."""
    reconstruction = torch.stack((torch.full((1, 1, 2), 1.0), torch.full((1, 1, 2), -3.0)))
    return FakeOutput(
        labeled_logits=logits_of(0.25, 0.25).requires_grad_(),
        unlabeled_logits=logits_of(0.5, 0.5).requires_grad_(),
        reconstruction=reconstruction[: 1 + semi_supervised].clone().requires_grad_(),
        adapted=torch.ones(1 + semi_supervised, 4, 2, 2),
        commitment_loss=torch.tensor(5.0),
        entropy_loss=torch.tensor(-7.0),
    )


def _targets(semi_supervised: bool = True, opinion: tuple[float, float] = (0.0, 1.0)) -> VQSegTargets:
    count = 1 + semi_supervised
    return VQSegTargets(
        images=torch.zeros(count, 1, 1, 2),
        labels=torch.tensor([[[1, 1]]]),
        pseudo_probabilities=opinion_of(*opinion) if semi_supervised else torch.empty(0),
        entropy=torch.empty(0),
        stream_weights=(1.0,),
        foundation_features=torch.ones(count, 4, 2, 2),
    )


def _values(terms: LossTerms) -> dict[str, float]:
    return {name: value.item() for name, value in terms._asdict().items()}


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
    targets = _targets(opinion=(0.5, 0.75))
    terms = VQSegLoss(consistency_loss=PseudoLabelLoss(confidence_threshold=threshold))(_output(), targets)
    assert terms.unlabeled_segmentation.item() == pytest.approx(kept / 2 * LOG2, rel=1e-6)
    assert terms.labeled_segmentation.item() == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.25, 2.0)])
def test_streams_are_summed_by_their_weights_each_by_itself(weights):
    """The second stream is right with 0.9, and its Dice is its own: pooled, it would be another number."""
    loss = VQSegLoss(segmentation_loss=SegmentationLoss(lambda_dice=1.0))
    first, second = logits_of(0.5, 0.5), logits_of(0.1, 0.9)
    output = _output()._replace(unlabeled_logits=torch.cat((first, second)), reconstruction=torch.empty(0))
    opinion = opinion_of(0.0, 1.0)
    targets = _targets()._replace(pseudo_probabilities=torch.cat((opinion, opinion)), stream_weights=weights)
    by_hand = (LOG2 + 1 - 1.0 / 2.0, -math.log(0.9) + 1 - 1.8 / 2.0)
    expected = weights[0] * by_hand[0] + weights[1] * by_hand[1]
    assert loss(output, targets).unlabeled_segmentation.item() == pytest.approx(expected, rel=1e-4)


def test_each_stream_and_the_ramp_reach_the_consistency_loss():
    seen = []

    def keep(logits, probabilities, entropy, ramp):
        seen.append((logits, probabilities, entropy, ramp))
        return logits.mean()

    logits, opinion = torch.randn(4, 2, 1, 2), torch.rand(4, 2, 1, 2)
    output = _output()._replace(unlabeled_logits=logits, reconstruction=torch.empty(0))
    targets = _targets()._replace(pseudo_probabilities=opinion, stream_weights=(1.0, 1.0))
    loss = VQSegLoss(consistency_loss=keep)
    loss(output, targets._replace(entropy=torch.arange(4.0).view(4, 1, 1)), ramp=0.3)
    loss(output, targets, ramp=0.3)
    for stream, (found, probabilities, entropy, ramp) in enumerate(seen[:2]):
        own = slice(2 * stream, 2 * stream + 2)
        assert torch.equal(found, logits[own])
        assert torch.equal(probabilities, opinion[own])
        assert entropy.flatten().tolist() == [2.0 * stream, 2.0 * stream + 1]
        assert ramp == 0.3
    assert [entry[2].numel() for entry in seen[2:]] == [0, 0]


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
        PseudoLabelLoss(confidence_threshold=threshold)


def test_cross_entropy_by_hand():
    loss = SegmentationLoss()(logits_of(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]]))
    assert loss.item() == pytest.approx((math.log(4) + LOG2 - math.log(0.9)) / 3, rel=1e-6)


def test_masked_cross_entropy_is_averaged_over_all_voxels():
    mask = torch.tensor([[[True, False, False]]])
    loss = SegmentationLoss()(logits_of(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]]), mask)
    assert loss.item() == pytest.approx(math.log(4) / 3, rel=1e-6)


def test_dice_term_by_hand():
    """Foreground: 1 - 2 (0.25 + 0.9) / ((0.25 + 0.5 + 0.9) + 2)."""
    logits, target = logits_of(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]])
    cross_entropy = SegmentationLoss()(logits, target)
    loss = SegmentationLoss(lambda_dice=0.5)(logits, target)
    assert (loss - cross_entropy).item() == pytest.approx(0.5 * (1 - 2.3 / 3.65), rel=1e-4)


def test_masked_dice_leaves_out_the_masked_voxels():
    """Kept: the first and the second; 1 - 2 * 0.25 / ((0.25 + 0.5) + 1)."""
    logits, target = logits_of(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]])
    mask = torch.tensor([[[True, True, False]]])
    dice = SegmentationLoss(lambda_dice=1.0)(logits, target, mask) - SegmentationLoss()(logits, target, mask)
    assert dice.item() == pytest.approx(1 - 0.5 / 1.75, rel=1e-4)


def test_dice_pools_the_batch_so_that_an_empty_slice_costs_nothing_of_its_own():
    """Two slices, the second without the structure: 1 - 2 * 0.5 / (0.5 + 0.25 + 1), not the mean of two losses."""
    logits = torch.cat((logits_of(0.5), logits_of(0.25)))
    target = torch.tensor([[[1]], [[0]]])
    dice = SegmentationLoss(lambda_dice=1.0)(logits, target) - SegmentationLoss()(logits, target)
    assert dice.item() == pytest.approx(1 - 1.0 / 1.75, rel=1e-4)


def test_masked_voxels_get_no_gradient():
    logits = logits_of(0.25, 0.5, 0.9).requires_grad_()
    mask = torch.tensor([[[True, True, False]]])
    SegmentationLoss(lambda_dice=1.0)(logits, torch.tensor([[[1, 0, 1]]]), mask).backward()
    assert (logits.grad[..., :2] != 0).all()
    assert (logits.grad[..., 2] == 0).all()


def test_ignored_voxels_change_neither_loss_nor_gradient():
    """Two voxels with a label, and the same beside three whose index is no class."""
    terms = SegmentationLoss(lambda_dice=1.0)
    alone = logits_of(0.25, 0.5).requires_grad_()
    beside = logits_of(0.25, 0.9, 0.5, 0.1, 0.7).requires_grad_()
    losses = terms(alone, torch.tensor([[[1, 0]]])), terms(beside, torch.tensor([[[1, 2, 0, 2, 7]]]))
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(beside.grad[..., [0, 2]], alone.grad)
    assert (beside.grad[..., [1, 3, 4]] == 0).all()
    assert terms(beside, torch.full((1, 1, 5), 2)).item() == pytest.approx(0, abs=1e-4)


def test_pseudo_labels_without_any_probability_are_ignored_by_any_threshold():
    probabilities = torch.zeros(1, 2, 1, 2)
    probabilities[0, 1, 0, 0] = 1.0
    loss = PseudoLabelLoss(confidence_threshold=0.0)(logits_of(0.25, 0.5), probabilities, torch.empty(0))
    assert loss.item() == pytest.approx(math.log(4), rel=1e-6)  # nor do they count, unlike those below it


def test_half_precision_logits_are_summed_in_float32():
    loss = SegmentationLoss(lambda_dice=1.0)(logits_of(0.5, 0.5).bfloat16(), torch.tensor([[[1, 0]]]))
    assert loss.dtype is torch.float32


def test_volumes_are_taken_too():
    logits = torch.zeros(2, 4, 3, 3, 2)
    target = torch.randint(4, (2, 3, 3, 2))
    assert SegmentationLoss()(logits, target).item() == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize("name", ["lambda_dice", "lambda_cross_entropy"])
def test_negative_weights_of_segmentation_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name} must not be negative, got -0.5"):
        SegmentationLoss(**{name: -0.5})


def test_a_segmentation_loss_without_terms_is_refused():
    with pytest.raises(ValueError, match="lambda_dice and lambda_cross_entropy must not both be 0"):
        SegmentationLoss(lambda_dice=0.0, lambda_cross_entropy=0.0)


def test_dice_alone_with_background_and_squares_by_hand():
    """Class 1: 1 - 2 * 1.15 / (0.0625 + 0.25 + 0.81 + 2); class 0: 1 - 2 * 0.5 / (0.5625 + 0.25 + 0.01 + 1)."""
    logits, target = logits_of(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]])
    loss = SegmentationLoss(1.0, lambda_cross_entropy=0.0, include_background=True, squared_dice=True)
    assert loss(logits, target).item() == pytest.approx(((1 - 2.3 / 3.1225) + (1 - 1.0 / 1.8225)) / 2, rel=1e-4)


def test_masked_voxels_are_no_background_in_dice():
    """The masked voxels 1 and 3 do not count for class 0 either: 1 - 2 * 0.5 / (0.5 + 1)."""
    logits, target = logits_of(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]])
    mask = torch.tensor([[[False, True, False]]])
    loss = SegmentationLoss(1.0, lambda_cross_entropy=0.0, include_background=True)(logits, target, mask)
    class_0, class_1 = 1 - 1.0 / 1.5, 1 - 1e-5 / 0.5
    assert loss.item() == pytest.approx((class_0 + class_1) / 2, rel=1e-4)
