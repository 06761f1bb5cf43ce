from __future__ import annotations

import numpy as np
import pytest
import torch
from support.perturbation_parts import chi_square_p, draw_each_code, make_codebook, make_generator, neighbor_law

from vqseg_bundle.layers import QuantizedPerturbation, neighbor_sampling


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
