"""Codes shuffled within an image: QPM's other mode."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from support.layer_parts import make_codebook, make_generator

from vqseg_bundle.layers import QuantizedPerturbation


@pytest.mark.parametrize("perturb_prob", [0.1, 0.33, 0.7, 1.0])
def test_shuffle_trades_exactly_the_share_of_tokens_within_each_image(perturb_prob):
    indices = torch.arange(5 * 63).view(5, 9, 7)  # all distinct, so that every trade shows
    output = QuantizedPerturbation(perturb_prob, mode="shuffle").perturb_indices(
        indices, make_codebook(8), generator=make_generator()
    )
    assert (output != indices).flatten(1).sum(dim=1).tolist() == [round(perturb_prob * 63)] * 5
    assert torch.equal(output.flatten(1).sort(dim=1).values, indices.flatten(1))


def test_shuffle_keeps_the_codes_of_each_image():
    indices = torch.randint(8, (6, 4, 5, 3), generator=make_generator())
    output = QuantizedPerturbation(0.7, mode="shuffle").perturb_indices(
        indices, make_codebook(8), generator=make_generator()
    )
    for before, after in zip(indices, output, strict=True):
        assert torch.equal(torch.bincount(before.flatten(), minlength=8), torch.bincount(after.flatten(), minlength=8))


def test_shuffle_picks_places_and_partners_evenly():
    images = torch.arange(6).expand(20_000, 6)
    output = QuantizedPerturbation(0.5, mode="shuffle").perturb_indices(
        images, make_codebook(8), generator=make_generator()
    )
    # each place takes part in half the images, and its 10,000 newcomers come from the five others alike
    for place in range(6):
        counts = torch.bincount(output[:, place], minlength=6).double()
        expected = torch.full((6,), 2000.0, dtype=torch.float64)
        expected[place] = 10_000
        assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-4


def test_shuffle_of_one_token_has_no_partner():
    indices = torch.arange(4).view(1, 2, 2)
    assert torch.equal(QuantizedPerturbation(0.25, mode="shuffle").perturb_indices(indices, make_codebook(8)), indices)
