from __future__ import annotations

import math

import pytest
import torch

from vqseg_bundle.losses.alignment import PatchInfoNCELoss


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
