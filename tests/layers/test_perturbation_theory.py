from __future__ import annotations

import itertools
import math

import pytest
import torch

from vqseg_bundle.layers import (
    automatic_temperature,
    dropout_kl_divergence,
    perturbation_theory,
    perturbed_marginal,
    qpm_kl_divergence,
    transition_matrix,
)

LINE = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)  # squared distances 1 (0-1), 9 (0-2), 4 (1-2)


def _random(size: int = 40) -> torch.Tensor:
    return 0.6 * torch.randn(size, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_two_codes_by_hand():
    codebook = torch.tensor([[0.0, 1.0], [5.0, -2.0]], dtype=torch.float64)
    expected = torch.tensor([[0.3, 0.7], [0.7, 0.3]], dtype=torch.float64)
    torch.testing.assert_close(transition_matrix(codebook, 0.7), expected)
    torch.testing.assert_close(perturbed_marginal(codebook, 0.7), torch.full((2,), 0.5, dtype=torch.float64))
    assert qpm_kl_divergence(codebook, 0.7).item() == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_three_codes_by_hand(temperature):
    near, middle, far = (math.exp(-distance / temperature) for distance in (1, 4, 9))
    expected = torch.tensor(
        [
            [0.4, 0.6 * near / (near + far), 0.6 * far / (near + far)],
            [0.6 * near / (near + middle), 0.4, 0.6 * middle / (near + middle)],
            [0.6 * far / (middle + far), 0.6 * middle / (middle + far), 0.4],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(transition_matrix(LINE, 0.6, temperature), expected)
    marginal = expected.mean(dim=0)
    torch.testing.assert_close(perturbed_marginal(LINE, 0.6, temperature), marginal)
    divergence = sum(math.log(1 / (3 * share)) for share in marginal.tolist()) / 3
    assert qpm_kl_divergence(LINE, 0.6, temperature).item() == pytest.approx(divergence, rel=1e-12)


def test_euclidean_and_cosine_by_hand():
    codebook = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]], dtype=torch.float64)
    # from the first code: euclidean sqrt(5) and 5, cosine distances 1 and 2
    for distance, (second, third) in {"euclidean": (math.sqrt(5), 5.0), "cosine": (1.0, 2.0)}.items():
        weights = torch.tensor([0.0, math.exp(-second), math.exp(-third)], dtype=torch.float64)
        row = transition_matrix(codebook, 1.0, distance=distance)[0]
        torch.testing.assert_close(row, weights / weights.sum())


@pytest.mark.parametrize("distance", ["squared_euclidean", "euclidean", "cosine"])
def test_rows_and_marginal_sum_to_one(distance):
    matrix = transition_matrix(_random(), 0.7, 0.8, distance)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(matrix.diagonal(), torch.full((40,), 0.3, dtype=torch.float64))
    assert perturbed_marginal(_random(), 0.7, 0.8, distance).sum().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_marginal_is_the_column_mean_of_the_matrix_by_any_chunks(rows, monkeypatch):
    monkeypatch.setattr(perturbation_theory, "_CHUNK_ELEMENTS", rows * 40)
    for perturb_prob in (0.0, 0.3, 1.0):
        expected = transition_matrix(_random(), perturb_prob).mean(dim=0)
        torch.testing.assert_close(perturbed_marginal(_random(), perturb_prob), expected)
        divergence = -(40 * expected).log().mean().item()
        assert qpm_kl_divergence(_random(), perturb_prob).item() == pytest.approx(divergence, rel=1e-10, abs=1e-15)


def test_float32_agrees_with_float64_also_far_from_the_origin():
    expected = transition_matrix(_random(), 0.7)
    torch.testing.assert_close(transition_matrix(_random().float(), 0.7).double(), expected, rtol=1e-5, atol=1e-6)
    shifted = (_random() + 64.0).float()
    torch.testing.assert_close(transition_matrix(shifted, 0.7), transition_matrix(shifted.double(), 0.7).float())


def test_autocast_changes_nothing():
    codebook = _random().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = transition_matrix(codebook, 0.7)
    assert torch.equal(cast, transition_matrix(codebook, 0.7))


def test_strength_zero_moves_nothing():
    assert torch.equal(transition_matrix(LINE, 0.0), torch.eye(3, dtype=torch.float64))
    assert qpm_kl_divergence(LINE, 0.0).item() == 0.0


def test_strength_one_is_within_the_bound_of_the_paper():
    codebook = _random()
    distances = torch.pdist(codebook).square()
    nearest, farthest = distances.min().item(), distances.max().item()
    moves = transition_matrix(codebook, 1.0)[~torch.eye(40, dtype=torch.bool)]
    assert moves.min() >= math.exp(-farthest) / (39 * math.exp(-nearest))
    assert moves.max() <= math.exp(-nearest) / (39 * math.exp(-farthest))
    # K Q(c_j | 1) is at least exp(D_min - D_max), so the divergence is at most D_max - D_min
    assert 0.01 < qpm_kl_divergence(codebook, 1.0).item() <= farthest - nearest


def test_divergence_is_finite_where_every_way_to_a_code_underflows():
    codebook = torch.tensor([[0.0], [1.0], [100.0]])
    # the two near codes swap, the far one goes to its nearer neighbor: K Q = (1, 2, exp(-9801 + 1)) to float32
    expected = (0.0 - math.log(2) + 9800) / 3
    assert transition_matrix(codebook, 1.0)[:, 2].max().item() == 0.0
    assert qpm_kl_divergence(codebook, 1.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("distance", ["squared_euclidean", "euclidean", "cosine"])
def test_divergence_grows_with_the_strength(distance):
    radii = [qpm_kl_divergence(_random(), step / 10, 0.5, distance).item() for step in range(11)]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(radii))


def test_automatic_temperature_stands_for_its_value():
    scale = automatic_temperature(_random()).item()
    torch.testing.assert_close(transition_matrix(_random(), 0.7, "auto"), transition_matrix(_random(), 0.7, scale))
    assert qpm_kl_divergence(_random(), 0.7, "auto").item() == pytest.approx(
        qpm_kl_divergence(_random(), 0.7, scale).item(), rel=1e-12
    )


@pytest.mark.parametrize(
    ("p", "expected"), [(0.0, 0.0), (0.5, 0.5 * (1 - math.log(2))), (0.9, 0.5 * (9 + math.log(0.1)))]
)
def test_dropout_by_hand(p, expected):
    assert dropout_kl_divergence(p) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_dropout_has_no_bound():
    assert dropout_kl_divergence(1 - 1e-9) > 1e8


@pytest.mark.parametrize("p", [1.0, -0.1, float("nan")])
def test_dropout_refuses_a_rate_outside_its_range(p):
    with pytest.raises(ValueError, match=r"p \(dropout rate\) must lie in \[0, 1\), got"):
        dropout_kl_divergence(p)


@pytest.mark.parametrize("function", [transition_matrix, perturbed_marginal, qpm_kl_divergence])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LINE, 1.5), r"perturb_prob \(the paper's eps\) must lie in \[0, 1\], got 1.5"),
        ((LINE, float("nan")), r"perturb_prob \(the paper's eps\) must lie in \[0, 1\], got nan"),
        ((LINE, 0.5, 0.0), 'temperature must be a positive number or "auto", got 0.0'),
        ((LINE, 0.5, "warm"), "temperature must be a positive number or \"auto\", got 'warm'"),
        (
            (LINE, 0.5, 1.0, "manhattan"),
            "distance must be one of squared_euclidean, euclidean, cosine, got 'manhattan'",
        ),
        ((LINE[:1], 0.5), "codebook must hold at least 2 codewords to move between, got 1"),
    ],
)
def test_refuses(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)
