from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from support.loss_parts import LOG2, logits_of, opinion_of
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
