"""Losses between the student's logits and the pseudo-labeller's probabilities, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from support.layer_parts import logits_of, opinion_of
from torch import Tensor

from vqseg_bundle.losses import (
    MeanSquaredConsistencyLoss,
    PseudoLabelLoss,
    SegmentationLoss,
    UncertaintyMaskedConsistencyLoss,
)
from vqseg_bundle.losses.alignment import PatchInfoNCELoss

NO_ENTROPY = torch.empty(0)


def _row(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, -1)


def test_mean_squared_error_by_hand():
    """Both classes are off by 0.2 in the first voxel and by 0.1 in the second: (0.04 + 0.01) / 2."""
    loss = MeanSquaredConsistencyLoss()(logits_of(0.3, 0.9), opinion_of(0.5, 0.8), NO_ENTROPY)
    assert loss.item() == pytest.approx(0.025, rel=1e-5)


def test_mean_squared_error_averages_over_classes():
    """Off by 0.5, 0.25 and 0.25: (0.25 + 0.0625 + 0.0625) / 3."""
    logits = torch.tensor([0.5, 0.25, 0.25]).log().view(1, 3, 1, 1)
    target = torch.tensor([0.0, 0.5, 0.5]).view(1, 3, 1, 1)
    assert MeanSquaredConsistencyLoss()(logits, target, NO_ENTROPY).item() == pytest.approx(0.125, rel=1e-5)


def test_mean_squared_error_pulls_the_student_and_is_float32():
    logits = logits_of(0.3, 0.9).bfloat16().requires_grad_()
    loss = MeanSquaredConsistencyLoss()(logits, opinion_of(0.5, 0.8), NO_ENTROPY)
    loss.backward()
    assert loss.dtype is torch.float32
    assert logits.grad[0, 1, 0, 0] < 0 < logits.grad[0, 1, 0, 1]


@pytest.mark.parametrize(
    ("ramp", "kept"),
    [(0.0, 1), (0.5, 2), (1.0, 3)],  # thresholds 0.75, 0.875 and 1 times ln 2
)
def test_the_uncertainty_mask_opens_with_the_ramp(ramp, kept):
    """Squared errors 0.04, 0.01 and 0.09 a class; the mean runs over the kept voxels' classes."""
    entropy = _row(0.7, 0.8, 0.9) * math.log(2)
    loss = UncertaintyMaskedConsistencyLoss()
    value = loss(logits_of(0.3, 0.9, 0.2), opinion_of(0.5, 0.8, 0.5), entropy, ramp)
    assert value.item() == pytest.approx(sum((0.04, 0.01, 0.09)[:kept]) / kept, rel=1e-5)


@pytest.mark.parametrize("loss", [MeanSquaredConsistencyLoss(), UncertaintyMaskedConsistencyLoss()])
def test_voxels_that_nobody_has_labelled_pull_nowhere(loss):
    """What was pasted from "ignore" has no probability; the mean is the first voxel's, 0.04."""
    logits, target = logits_of(0.3, 0.9).requires_grad_(), opinion_of(0.5, 0.8)
    target[..., 1] = 0.0
    value = loss(logits, target, _row(0.0, 0.0), 1.0)
    assert value.item() == pytest.approx(0.04, rel=1e-5)
    value.backward()
    assert logits.grad[..., 1].abs().max() == 0 < logits.grad[..., 0].abs().min()


def test_the_threshold_grows_with_the_classes():
    """At ramp 0 and four classes it is 0.75 ln 4 = 1.5 ln 2, beyond any entropy of two classes."""
    logits, target = torch.zeros(1, 4, 1, 2), torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 4, 1, 1).expand(1, 4, 1, 2)
    loss = UncertaintyMaskedConsistencyLoss()
    value = loss(logits, target, _row(1.49, 1.51) * math.log(2), 0.0)
    assert value.item() == pytest.approx((0.75**2 + 3 * 0.25**2) / 4, rel=1e-5)
    assert loss(logits, target, _row(1.51, 1.52) * math.log(2), 0.0).item() == 0.0


def test_uncertain_voxels_get_no_gradient():
    logits = logits_of(0.3, 0.9).requires_grad_()
    loss = UncertaintyMaskedConsistencyLoss()(logits, opinion_of(0.5, 0.8), _row(0.1, 0.69), 0.0)
    loss.backward()
    assert (logits.grad[..., 0] != 0).all()
    assert (logits.grad[..., 1] == 0).all()


def test_all_certain_at_full_ramp_is_the_plain_mean():
    generator = torch.Generator().manual_seed(0)
    logits, target = (torch.randn(2, 3, 4, 5, generator=generator) for _ in range(2))
    target = target.softmax(dim=1)
    masked = UncertaintyMaskedConsistencyLoss()(logits, target, torch.zeros(2, 4, 5), 1.0)
    torch.testing.assert_close(masked, MeanSquaredConsistencyLoss()(logits, target, NO_ENTROPY))


def test_a_mask_without_entropy_is_refused():
    with pytest.raises(ValueError, match=r"entropy of the pseudo-labels must be there .* such as MonteCarloTeacher"):
        UncertaintyMaskedConsistencyLoss()(logits_of(0.3), opinion_of(0.5), NO_ENTROPY)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_an_initial_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match=rf"initial_share must lie in \[0, 1\], got {share}"):
        UncertaintyMaskedConsistencyLoss(share)


def test_pseudo_labels_are_the_most_probable_classes_that_reach_the_threshold():
    """Kept: class 1 with 0.96, against the student's 0.25; left out: class 0 with 0.9. Averaged over both voxels."""
    logits, opinion = logits_of(0.25, 0.5), opinion_of(0.96, 0.1)
    loss = PseudoLabelLoss(confidence_threshold=0.95)(logits, opinion, NO_ENTROPY)
    assert loss.item() == pytest.approx(math.log(4) / 2, rel=1e-5)


def test_pseudo_labels_meet_the_given_segmentation_loss():
    logits, opinion = logits_of(0.25, 0.5), opinion_of(0.96, 0.1)
    segmentation = SegmentationLoss(1.0, lambda_cross_entropy=0.0, include_background=True, squared_dice=True)
    loss = PseudoLabelLoss(segmentation, confidence_threshold=0.5)(logits, opinion, NO_ENTROPY)
    assert loss.item() == pytest.approx(segmentation(logits, torch.tensor([[[1, 0]]])).item(), rel=1e-6)


def _orthonormal(height: int, width: int) -> torch.Tensor:
    """Patch features (1, n, h, w) that are the n unit vectors."""
    count = height * width
    return torch.eye(count).view(1, count, height, width)


def _plain_formula(adapted: torch.Tensor, target: torch.Tensor, temperature: float) -> float:
    """The paper's sum over patches, term by term in float64; (C, n) features of one image."""
    a, t = adapted.double(), target.double()
    terms = []
    for i in range(a.shape[1]):
        sims = [float(a[:, i] @ t[:, j] / (a[:, i].norm() * t[:, j].norm())) for j in range(t.shape[1])]
        terms.append(-math.log(math.exp(sims[i] / temperature) / sum(math.exp(s / temperature) for s in sims)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("grid", [(2, 2), (3, 4)])
def test_identical_orthonormal_features(grid, temperature):
    count = grid[0] * grid[1]
    features = _orthonormal(*grid)
    loss = PatchInfoNCELoss(temperature)(3.0 * features, 0.2 * features)
    positive = math.exp(1 / temperature)
    # fp32 cannot hold 1 + 3e-6 better than to 1e-7, hence the absolute tolerance at temperature 0.07
    assert loss.item() == pytest.approx(-math.log(positive / (positive + count - 1)), rel=1e-5, abs=2e-7)


def test_opposite_features_are_worse_than_chance():
    features = _orthonormal(2, 2)
    negative = math.exp(-1 / 0.5)
    loss = PatchInfoNCELoss(0.5)(-features, features)
    assert loss.item() == pytest.approx(-math.log(negative / (negative + 3)), rel=1e-5)


def test_uniform_features_give_the_logarithm_of_the_patch_count():
    loss = PatchInfoNCELoss()(torch.ones(2, 8, 3, 4), torch.randn(2, 8, 1, 1).expand(2, 8, 3, 4))
    assert loss.item() == pytest.approx(math.log(12), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_the_plain_formula_in_float64(temperature):
    generator = torch.Generator().manual_seed(0)
    adapted = torch.randn(3, 16, 4, 5, generator=generator)
    target = torch.randn(3, 16, 4, 5, generator=generator)
    expected = [_plain_formula(a.flatten(1), t.flatten(1), temperature) for a, t in zip(adapted, target, strict=True)]
    loss = PatchInfoNCELoss(temperature)(adapted, target)
    assert loss.item() == pytest.approx(sum(expected) / 3, rel=1e-6)


def test_patches_of_a_volume_are_contrasted_within_their_slice():
    generator = torch.Generator().manual_seed(1)
    adapted = torch.randn(2, 8, 3, 3, 4, generator=generator)
    target = torch.randn(2, 8, 3, 3, 4, generator=generator)
    criterion = PatchInfoNCELoss()
    slices = [criterion(adapted[..., k], target[..., k]) for k in range(4)]
    torch.testing.assert_close(criterion(adapted, target), torch.stack(slices).mean())


def test_identical_slices_are_no_negatives():
    features = _orthonormal(2, 2)
    criterion = PatchInfoNCELoss()
    volume = features.unsqueeze(-1).expand(1, 4, 2, 2, 5)
    torch.testing.assert_close(criterion(volume, volume), criterion(features, features))


def test_gradient_reaches_adapted_and_not_target():
    adapted = torch.randn(1, 4, 3, 3, requires_grad=True)
    target = torch.randn(1, 4, 3, 3, requires_grad=True)
    PatchInfoNCELoss()(adapted, target).backward()
    assert (adapted.grad.flatten(2).norm(dim=1) > 0).all()
    assert target.grad is None


def test_a_zero_feature_keeps_loss_and_gradient_finite():
    adapted = torch.zeros(1, 4, 2, 2, requires_grad=True)
    loss = PatchInfoNCELoss()(adapted, torch.randn(1, 4, 2, 2))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(4), rel=1e-6)
    assert adapted.grad.abs().max() < 1e8


def test_autocast_does_not_lower_the_precision():
    generator = torch.Generator().manual_seed(2)
    adapted = torch.randn(1, 32, 4, 4, generator=generator)
    target = torch.randn(1, 32, 4, 4, generator=generator)
    criterion = PatchInfoNCELoss()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = criterion(adapted, target)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast, criterion(adapted, target), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_result_is_a_float32_scalar(dtype):
    features = _orthonormal(2, 2).to(dtype)
    loss = PatchInfoNCELoss()(features, features)
    assert loss.dtype == torch.float32
    assert loss.shape == ()


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan")])
def test_constructor_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive, got"):
        PatchInfoNCELoss(temperature)


@pytest.mark.parametrize(
    ("adapted", "target", "message"),
    [
        ((1, 4, 3, 3), (1, 4, 3, 2), r"same shape .* got \(1, 4, 3, 3\) and \(1, 4, 3, 2\)"),
        ((1, 4, 9), (1, 4, 9), r"\(B, C, h, w\) or \(B, C, h, w, d\), got \(1, 4, 9\)"),
        ((1, 4, 1, 1, 6), (1, 4, 1, 1, 6), r"at least 2 patches to contrast, got \(1, 1\)"),
    ],
)
def test_forward_refuses(adapted, target, message):
    with pytest.raises(ValueError, match=message):
        PatchInfoNCELoss()(torch.ones(adapted), torch.ones(target))
