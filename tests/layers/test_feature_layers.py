"""Layers on features: the adapter, dropout, draws among neighbouring codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from support.layer_parts import chi_square_p, draw_each_code, make_codebook, make_generator, neighbor_law
from torch import nn

from vqseg_bundle.layers import FeatureDropout, QuantizedPerturbation, neighbor_sampling
from vqseg_bundle.layers.feature_adapter import PostVQFeatureAdapter


def _with_weights(adapter: PostVQFeatureAdapter, weight: list[list[float]], bias: list[float]) -> PostVQFeatureAdapter:
    with torch.no_grad():
        adapter.projection.weight.copy_(torch.tensor(weight).view_as(adapter.projection.weight))
        adapter.projection.bias.copy_(torch.tensor(bias))
    return adapter


@pytest.mark.parametrize(
    ("spatial_dims", "size", "grid"), [(2, (8, 6), (9, 9)), (2, (8, 8), (3, 5)), (3, (4, 4, 2), (9, 9, 3))]
)
def test_output_has_the_grid_and_channels_of_the_foundation_model(spatial_dims, size, grid):
    adapter = PostVQFeatureAdapter(spatial_dims, in_channels=5, out_channels=7)
    assert adapter(torch.randn(2, 5, *size), grid).shape == (2, 7, *grid)


def test_resizes_linearly_without_aligning_corners():
    adapter = _with_weights(PostVQFeatureAdapter(2, 1, 1), [[1.0]], [0.0])
    adapted = adapter(torch.tensor([[[[0.0, 1.0]]]]), grid=(1, 4))
    torch.testing.assert_close(adapted, torch.tensor([[[[0.0, 0.25, 0.75, 1.0]]]]))


def test_resizes_the_depth_of_volumes_too():
    adapter = _with_weights(PostVQFeatureAdapter(3, 1, 1), [[1.0]], [0.0])
    adapted = adapter(torch.tensor([0.0, 4.0]).view(1, 1, 1, 1, 2), grid=(1, 1, 4))
    torch.testing.assert_close(adapted, torch.tensor([0.0, 1.0, 3.0, 4.0]).view(1, 1, 1, 1, 4))


def test_projects_each_token_on_its_own():
    adapter = _with_weights(PostVQFeatureAdapter(2, 2, 2), [[1.0, 2.0], [0.0, -1.0]], [0.5, 0.0])
    quantized = torch.tensor([[1.0, 3.0], [10.0, 20.0]]).view(1, 2, 1, 2)
    torch.testing.assert_close(
        adapter(quantized, (1, 2)), torch.tensor([[21.5, 43.5], [-10.0, -20.0]]).view(1, 2, 1, 2)
    )


def test_gradient_reaches_the_quantized_map_and_the_projection():
    adapter = PostVQFeatureAdapter(2, 4, 6)
    quantized = torch.randn(1, 4, 8, 8, requires_grad=True)
    adapter(quantized, (9, 9)).square().sum().backward()
    assert (quantized.grad.abs().sum(dim=1) > 0).all()
    assert (adapter.projection.weight.grad.abs() > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 4, 4), "spatial_dims must be 2 or 3, got 1"),
        ((2, 0, 4), "in_channels must be at least 1, got 0"),
        ((2, 4, -1), "out_channels must be at least 1, got -1"),
    ],
)
def test_constructor_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        PostVQFeatureAdapter(*arguments)


@pytest.mark.parametrize(
    ("shape", "grid", "message"),
    [
        ((1, 3, 8, 8), (9, 9), r"quantized must have 4 channels and 2 spatial dimensions, got shape \(1, 3, 8, 8\)"),
        ((1, 4, 8, 8, 8), (9, 9), r"quantized must have 4 channels and 2 spatial dimensions"),
        ((1, 4, 8, 8), (9, 9, 9), r"grid must hold 2 positive sizes, got \(9, 9, 9\)"),
        ((1, 4, 8, 8), (9, 0), r"grid must hold 2 positive sizes, got \(9, 0\)"),
    ],
)
def test_forward_refuses(shape, grid, message):
    with pytest.raises(ValueError, match=message):
        PostVQFeatureAdapter(2, 4, 6)(torch.zeros(shape), grid)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("mode", ["channel", "element"])
def test_what_is_kept_is_scaled_and_the_rest_is_0(mode):
    features = torch.rand(4, 6, 3, 5) + 0.5
    output = FeatureDropout(0.2, mode)(features, generator=_generator())
    kept = output != 0
    torch.testing.assert_close(output[kept], features[kept] / 0.8)
    assert 0 < kept.float().mean() < 1


@pytest.mark.parametrize("size", [(3, 5), (3, 5, 2)])
def test_whole_channels_of_an_image_go_together(size):
    kept = FeatureDropout(0.5)(torch.ones(8, 6, *size), generator=_generator()).flatten(2) != 0
    assert (kept.all(dim=2) | ~kept.any(dim=2)).all()
    assert len({tuple(row) for row in kept[:, :, 0].tolist()}) > 1  # each image has a draw of its own


@pytest.mark.parametrize(("mode", "shape"), [("channel", (5000, 12, 2, 1)), ("element", (5000, 2, 2, 3))])
@pytest.mark.parametrize("rate", [0.3, 0.5])
def test_the_zeros_of_an_image_are_binomial(mode, shape, rate):
    """Chi-squared test of the number of zeros among 12 draws an image, over 5000 images."""
    output = FeatureDropout(rate, mode)(torch.ones(shape), generator=_generator(1))
    draws = output[..., 0, 0] if mode == "channel" else output.flatten(1)
    found = np.bincount((draws == 0).sum(dim=1).numpy(), minlength=13)
    law = 5000 * stats.binom.pmf(np.arange(13), 12, rate)
    common = law >= 5
    observed, expected = np.append(found[common], found[~common].sum()), np.append(law[common], law[~common].sum())
    assert stats.chisquare(observed, expected).pvalue > 0.01


def test_the_mean_over_draws_is_the_feature():
    features = torch.linspace(-2, 2, 24).view(1, 4, 2, 3)
    mean = FeatureDropout(0.5)(features.expand(40_000, -1, -1, -1), generator=_generator()).mean(dim=0)
    # one draw has the feature's own size as its standard deviation: 5 of them at 40,000 draws are 0.025
    torch.testing.assert_close(mean, features[0], rtol=0.025, atol=1e-6)


def test_it_is_pytorchs_channel_dropout_in_law():
    """The same first two moments over the draws as nn.Dropout2d, which UniMatch uses."""
    features = torch.ones(20_000, 3, 2, 2)
    torch.manual_seed(0)
    reference = nn.Dropout2d(0.5)(features)
    output = FeatureDropout(0.5)(features, generator=_generator())
    assert set(output.unique().tolist()) == set(reference.unique().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(output.mean(dim=0), reference.mean(dim=0), rtol=0.05, atol=0)
    torch.testing.assert_close(output.var(dim=0), reference.var(dim=0), rtol=0.05, atol=0)


def test_the_same_generator_state_gives_the_same_output_in_either_mode():
    dropout, features = FeatureDropout(0.5), torch.rand(4, 8, 2, 2)
    first = dropout.train()(features, generator=_generator(3))
    assert torch.equal(first, dropout.eval()(features, generator=_generator(3)))
    assert not torch.equal(first, dropout(features, generator=_generator(4)))


def test_rate_0_is_a_copy():
    features = torch.rand(2, 3, 4, 4)
    output = FeatureDropout(0.0)(features)
    assert torch.equal(output, features)
    assert output.data_ptr() != features.data_ptr()


def test_the_gradient_reaches_what_is_kept_alone():
    features = torch.rand(4, 8, 2, 2).add(0.5).requires_grad_()
    output = FeatureDropout(0.75)(features, generator=_generator())
    output.sum().backward()
    assert torch.equal(features.grad, 4.0 * (output != 0))


def test_half_precision_stays():
    assert FeatureDropout(0.5)(torch.ones(2, 3, 4, 4, dtype=torch.bfloat16)).dtype is torch.bfloat16


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match=rf"perturb_prob \(the dropout rate\) must lie in \[0, 1\), got {rate}"):
        FeatureDropout(rate)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match='mode must be "channel" or "element", got \'shuffle\''):
        FeatureDropout(mode="shuffle")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inversion_by_hand(dtype):
    weights = torch.tensor([[0.0, 0.0, 0.5, 0.0, 0.5, 0.0], [0.25, 0.0, 0.0, 0.75, 0.0, 0.0]], dtype=dtype)
    uniform = torch.tensor([0.0, 0.125, 0.5, 0.75, 0.0, 0.125, 0.25, 0.625], dtype=torch.float64)
    column, rest = neighbor_sampling._invert_running_sum(weights.repeat_interleave(4, dim=0), uniform)
    assert column.tolist() == [2, 2, 4, 4, 0, 0, 3, 3]
    assert rest.tolist() == [0.0, 0.25, 0.0, 0.5, 0.0, 0.5, 0.0, 0.5]


def test_inversion_at_the_upper_end():
    weights = torch.tensor([[0.1, 0.7, 0.2, 0.0], [1e-30, 0.0, 0.0, 0.0], [0.0, 0.0, 0.3, 3e4]])
    column, rest = neighbor_sampling._invert_running_sum(weights, torch.full((3,), 1 - 2**-53).double())
    assert column.tolist() == [2, 0, 3]
    assert ((rest >= 0.0) & (rest < 1.0)).all()


def test_chunks_of_rows_change_nothing(monkeypatch):
    indices, codebook = torch.randint(32, (2, 16, 16), generator=make_generator()), make_codebook(32)
    whole = QuantizedPerturbation(0.7).perturb_indices(indices, codebook, generator=make_generator())
    for rows in (1, 5, 31):
        monkeypatch.setattr(neighbor_sampling, "_ROW_ELEMENTS", rows * 32)
        assert torch.equal(
            QuantizedPerturbation(0.7).perturb_indices(indices, codebook, generator=make_generator()), whole
        )


@pytest.mark.parametrize("rounds", [0, 1, 20])
@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_chi_square_whether_by_proposals_or_by_rows(monkeypatch, rounds, temperature):
    monkeypatch.setattr(neighbor_sampling, "_ROUNDS", rounds)
    monkeypatch.setattr(neighbor_sampling, "_LEAST_ACCEPTED", 0.0)
    codebook = make_codebook(32)
    law = neighbor_law(np.arange(32), codebook, temperature, "squared_euclidean")
    assert chi_square_p(draw_each_code(QuantizedPerturbation(1.0, temperature), codebook), law) > 1e-3


@pytest.mark.parametrize(("temperature", "rounds"), [(4.0, 16), (0.001, 1)])
def test_proposals_stop_where_none_is_accepted(monkeypatch, temperature, rounds):
    turns = []
    accept = neighbor_sampling._accept_proposals
    monkeypatch.setattr(neighbor_sampling, "_accept_proposals", lambda *given: turns.append(1) or accept(*given))
    draw_each_code(QuantizedPerturbation(1.0, temperature), make_codebook(32), per_code=10)
    assert len(turns) == rounds
