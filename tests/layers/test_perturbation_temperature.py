"""The temperature of a perturbation, from the codebook's own scale or from as many neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from support.layer_parts import DISTANCES, chi_square_p, draw_each_code, make_codebook, make_generator, neighbor_law

from vqseg_bundle.layers import QuantizedPerturbation, automatic_temperature, perplexity_temperature


@pytest.mark.parametrize(("distance", "expected"), [("squared_euclidean", 2.0), ("euclidean", 4 / 3), ("cosine", 0.0)])
def test_automatic_temperature_by_hand(distance, expected):
    # nearest neighbors of 1, 2 and 4 on a line lie 1, 1 and 2 away; all point the same way
    scale = automatic_temperature(torch.tensor([[1.0], [2.0], [4.0]]), distance)
    assert scale.item() == pytest.approx(expected, abs=1e-6)
    assert scale > 0


def test_automatic_temperature_reads_the_nearest_two_percent():
    codebook = torch.arange(101, dtype=torch.float64).unsqueeze(1)
    # each code's two nearest: 1 and 1 inside, 1 and 2 at both ends; 64 codes are read, both ends among them
    assert automatic_temperature(codebook, "euclidean").item() == pytest.approx((62 * 2 + 2 * 3) / 128, rel=1e-9)


def test_automatic_temperature_makes_the_draws_independent_of_the_scale():
    indices, codebook = torch.randint(300, (2, 16, 16), generator=make_generator()), make_codebook(300)
    perturbation = QuantizedPerturbation(0.7, "auto")
    draws = [
        perturbation.perturb_indices(indices, scale * codebook, generator=make_generator())
        for scale in (1.0, 1 / 64, 256.0)
    ]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("neighbors", [1.5, 8, 40])
def test_a_moved_token_is_spread_over_so_many_codes(distance, neighbors):
    codebook = make_codebook(64)  # each code is read
    temperature = perplexity_temperature(codebook, neighbors, distance).item()
    law = neighbor_law(np.arange(64), codebook, temperature, distance)
    assert np.exp(stats.entropy(law, axis=1).mean()) == pytest.approx(neighbors, rel=1e-3)
    drawn = draw_each_code(QuantizedPerturbation(1.0, distance=distance, neighbors=neighbors), codebook)
    assert chi_square_p(drawn, law) > 1e-3


def test_one_temperature_for_as_many_neighbors_follows_the_scale_of_the_codebook():
    codebook = make_codebook(300)
    expected = perplexity_temperature(codebook, 8).item()
    assert perplexity_temperature(64.0 * codebook, 8).item() == pytest.approx(4096 * expected, rel=1e-4)
    assert perplexity_temperature(codebook / 1024, 8).item() == pytest.approx(expected / 2**20, rel=1e-4)


def test_all_codes_as_neighbors_is_a_uniform_move():
    codebook = make_codebook(32)
    law = neighbor_law(np.arange(32), codebook, perplexity_temperature(codebook, 31).item(), "squared_euclidean")
    np.testing.assert_allclose(law[~np.eye(32, dtype=bool)], 1 / 31, rtol=0.05)


def test_the_automatic_temperature_hardly_tells_near_from_far_in_many_dimensions():
    codebook = torch.nn.functional.normalize(torch.randn(1024, 64, generator=make_generator()), dim=1)
    law = neighbor_law(np.arange(1024), codebook, automatic_temperature(codebook).item(), "squared_euclidean")
    assert np.exp(stats.entropy(law, axis=1).mean()) > 1000


@pytest.mark.parametrize("neighbors", [1, 0.5, math.nan])
def test_too_few_neighbors_are_refused(neighbors):
    with pytest.raises(ValueError, match="neighbors must be above 1, or None for temperature, got"):
        QuantizedPerturbation(neighbors=neighbors)
    with pytest.raises(ValueError, match="neighbors must be above 1, got"):
        perplexity_temperature(make_codebook(8), neighbors)
