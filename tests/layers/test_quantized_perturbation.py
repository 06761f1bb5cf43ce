"""QPM's draws follow the transition law, and keep what it says of strengths, shapes and generators."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from support.layer_parts import DISTANCES, chi_square_p, draw_each_code, make_codebook, make_generator, neighbor_law
from torch import Tensor

from vqseg_bundle.common import exact_dtype
from vqseg_bundle.layers import (
    QuantizedPerturbation,
    VectorQuantizer,
    automatic_temperature,
    neighbor_sampling,
    transition_matrix,
)


def test_apples_devices_have_no_float64():
    assert [exact_dtype(torch.device(kind)) for kind in ("cpu", "mps")] == [torch.float64, torch.float32]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0, 4.0])
def test_chi_square_against_the_law_at_32_codes(temperature, distance):
    codebook = make_codebook(32)
    law = 0.7 * neighbor_law(np.arange(32), codebook, temperature, distance) + 0.3 * np.eye(32)
    drawn = draw_each_code(QuantizedPerturbation(0.7, temperature, distance=distance), codebook)
    assert chi_square_p(drawn, law) > 1e-3


def test_the_chi_square_test_notices_a_temperature_5_percent_off():
    codebook = make_codebook(32)
    law = 0.7 * neighbor_law(np.arange(32), codebook, 1.05, "squared_euclidean") + 0.3 * np.eye(32)
    assert chi_square_p(draw_each_code(QuantizedPerturbation(0.7, 1.0), codebook), law) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["usual", "as on MPS"])
def test_chi_square_with_the_automatic_temperature(dtype, monkeypatch):
    monkeypatch.setattr(neighbor_sampling, "exact_dtype", lambda device: dtype)
    codebook = make_codebook(32)
    scale = automatic_temperature(codebook).item()
    law = neighbor_law(np.arange(32), codebook, scale, "squared_euclidean")
    assert chi_square_p(draw_each_code(QuantizedPerturbation(1.0, "auto"), codebook), law) > 1e-3


def _integral_transform(temperature: float, tested_temperature: float) -> np.ndarray:
    """F(j - 1) + V p(j) of 8192 draws at K 16,384, V uniform: uniform itself if draws follow the tested law."""
    codebook = make_codebook(16_384, width=8, spread=1.0)
    codes = torch.linspace(0, 16_383, 32).long()
    drawn = (
        QuantizedPerturbation(1.0, temperature)
        .perturb_indices(codes.unsqueeze(1).expand(-1, 256), codebook, make_generator())
        .numpy()
    )
    law = neighbor_law(codes.numpy(), codebook, tested_temperature, "squared_euclidean")
    rows = np.arange(32)[:, None]
    share = law[rows, drawn]
    return (law.cumsum(axis=1)[rows, drawn] - np.random.default_rng(0).random(share.shape) * share).ravel()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 100.0])
def test_integral_transform_is_uniform_at_16384_codes(temperature):
    transformed = _integral_transform(temperature, temperature)
    assert stats.kstest(transformed, "uniform").pvalue > 1e-3


def test_the_integral_transform_notices_draws_without_distance():
    assert stats.kstest(_integral_transform(100.0, 0.3), "uniform").pvalue < 1e-6


def test_worked_example_of_the_paper():
    """Figure 3: K = 4, eps = 0.7, and a token at the first code moves to the second in 49 %."""
    # exp(-d) = 0.7, 0.15, 0.15 sums to Z = 1; each other code lies on an axis of its own
    axes = torch.diag(torch.tensor([0.7, 0.15, 0.15], dtype=torch.float64).log().neg().sqrt())
    codebook = torch.cat((torch.zeros(1, 3, dtype=torch.float64), axes))
    expected = [0.3, 0.49, 0.105, 0.105]
    assert transition_matrix(codebook, 0.7)[0].tolist() == pytest.approx(expected, abs=1e-12)
    drawn = QuantizedPerturbation(0.7).perturb_indices(
        torch.zeros(1, 100_000, dtype=torch.int64), codebook, generator=make_generator()
    )
    counts = torch.bincount(drawn.flatten(), minlength=4).numpy()
    assert stats.chisquare(counts, 100_000 * np.array(expected)).pvalue > 1e-3
    assert counts[1] / 100_000 == pytest.approx(0.49, abs=0.005)  # three standard errors


@pytest.mark.parametrize("mode", ["transition", "shuffle"])
def test_strength_zero_returns_a_copy_of_the_input(mode):
    indices = torch.randint(32, (2, 8, 8), generator=make_generator())
    output = QuantizedPerturbation(0.0, mode=mode).perturb_indices(indices, make_codebook(32))
    assert torch.equal(output, indices)
    assert output.data_ptr() != indices.data_ptr()


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3, "auto"])
@pytest.mark.parametrize("size", [2, 3, 32, 4096])
def test_strength_one_never_keeps_a_code(size, temperature):
    indices = torch.randint(size, (2, 50, 50), generator=make_generator())
    output = QuantizedPerturbation(1.0, temperature).perturb_indices(
        indices, make_codebook(size), generator=make_generator()
    )
    assert (output != indices).all()
    assert 0 <= output.min() <= output.max() < size


def test_strength_one_never_keeps_a_code_however_running_sums_are_rounded(monkeypatch):
    cumsum = torch.Tensor.cumsum

    def rounded_up_at_zeros(law: Tensor, dim: int) -> Tensor:
        return cumsum(law, dim) + 0.5 * (law == 0)

    monkeypatch.setattr(torch.Tensor, "cumsum", rounded_up_at_zeros)
    indices = torch.arange(5).repeat(1, 200)
    assert (
        QuantizedPerturbation(1.0, 10.0).perturb_indices(indices, make_codebook(5), generator=make_generator())
        != indices
    ).all()


@pytest.mark.parametrize("temperature", [1.0, 1e-30])
def test_a_row_that_underflows_goes_to_its_nearest_neighbor(temperature):
    codebook = torch.tensor([[0.0], [1e3], [3e3], [7e3]])  # exp(-1e6) is 0 even in float64
    output = QuantizedPerturbation(1.0, temperature).perturb_indices(
        torch.arange(4).repeat(1, 50), codebook, generator=make_generator()
    )
    assert output.view(50, 4).unique(dim=0).tolist() == [[1, 0, 1, 2]]


@pytest.mark.parametrize("temperature", [1.0, "auto"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_one_code_far_from_a_crowd_of_duplicates(distance, temperature):
    codebook = torch.ones(512, 4)
    codebook[1] = torch.tensor([10.0, -10.0, 3.0, 0.0])  # not among the codes that the automatic temperature reads
    indices = torch.ones(1, 1000, dtype=torch.int64)
    output = QuantizedPerturbation(1.0, temperature, distance=distance).perturb_indices(
        indices, codebook, generator=make_generator()
    )
    counts = torch.bincount(output.flatten(), minlength=512)
    assert counts[1] == 0
    assert (counts > 0).sum() > 350  # of 511 equally likely ones 1000 draws reach 439 in the mean


@pytest.mark.parametrize("perturb_prob", [0.1, 0.5, 0.7, 0.95])
def test_share_of_moved_tokens(perturb_prob):
    indices = torch.randint(32, (4, 100, 100), generator=make_generator(1))
    output = QuantizedPerturbation(perturb_prob).perturb_indices(indices, make_codebook(32), generator=make_generator())
    moved = int((output != indices).sum())
    assert stats.binomtest(moved, indices.numel(), perturb_prob).pvalue > 1e-3


@pytest.mark.parametrize("mode", ["transition", "shuffle"])
@pytest.mark.parametrize("shape", [(2, 9, 7), (2, 4, 5, 3)])
def test_indices_in_indices_out(shape, mode):
    indices = torch.randint(32, shape, generator=make_generator()).transpose(1, 2)
    before = indices.clone()
    codebook = VectorQuantizer(2, 32, 4).project_codebook()
    output = QuantizedPerturbation(0.7, mode=mode).perturb_indices(indices, codebook)
    assert output.shape == indices.shape
    assert output.dtype == torch.int64
    assert torch.equal(indices, before)
    assert (output != indices).any()


@pytest.mark.parametrize("mode", ["transition", "shuffle"])
def test_the_generator_alone_decides(mode):
    indices, codebook = torch.randint(32, (2, 16, 16), generator=make_generator()), make_codebook(32)
    perturbation = QuantizedPerturbation(0.7, mode=mode)
    state = torch.get_rng_state()
    first = perturbation.perturb_indices(indices, codebook, generator=make_generator(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(perturbation.eval().perturb_indices(indices, codebook, generator=make_generator(5)), first)
    assert not torch.equal(perturbation.perturb_indices(indices, codebook, generator=make_generator(6)), first)
    assert not torch.equal(
        perturbation.perturb_indices(indices, codebook), perturbation.perturb_indices(indices, codebook)
    )


def test_autocast_changes_nothing():
    indices, codebook = torch.randint(512, (2, 16, 16), generator=make_generator()), make_codebook(512)
    plain = QuantizedPerturbation(0.7).perturb_indices(indices, codebook, generator=make_generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(
            QuantizedPerturbation(0.7).perturb_indices(indices, codebook, generator=make_generator()), plain
        )


def test_65536_codes():
    indices = torch.randint(65_536, (1, 6, 6), generator=make_generator())
    output = QuantizedPerturbation(1.0, "auto").perturb_indices(
        indices, make_codebook(65_536), generator=make_generator()
    )
    assert (output != indices).all()


@pytest.mark.parametrize("mode", ["transition", "shuffle"])
def test_no_tokens(mode):
    assert QuantizedPerturbation(0.7, mode=mode).perturb_indices(
        torch.empty(0, 4, 4).long(), make_codebook(8)
    ).shape == (0, 4, 4)


def test_a_strength_too_small_for_any_token_moves_none():
    indices = torch.arange(16).view(1, 4, 4)
    assert torch.equal(
        QuantizedPerturbation(1e-12).perturb_indices(indices, make_codebook(16), generator=make_generator()), indices
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.2,), r"perturb_prob \(the paper's eps\) must lie in \[0, 1\], got 1.2"),
        ((-0.1,), r"perturb_prob \(the paper's eps\) must lie in \[0, 1\], got -0.1"),
        ((math.nan,), r"perturb_prob \(the paper's eps\) must lie in \[0, 1\], got nan"),
        ((0.5, 0.0), 'temperature must be a positive number or "auto", got 0.0'),
        ((0.5, math.nan), 'temperature must be a positive number or "auto", got nan'),
        ((0.5, "automatic"), "temperature must be a positive number or \"auto\", got 'automatic'"),
        ((0.5, 1.0, "swap"), 'mode must be "transition" or "shuffle", got \'swap\''),
        ((0.5, 1.0, "shuffle", "l1"), "distance must be one of squared_euclidean, euclidean, cosine, got 'l1'"),
    ],
)
def test_constructor_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        QuantizedPerturbation(*arguments)


def test_refuses_a_codebook_of_one():
    with pytest.raises(ValueError, match="codebook must hold at least 2 codewords to move between, got 1"):
        QuantizedPerturbation(1.0).perturb_indices(torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 4))


def test_shows_its_settings():
    assert repr(QuantizedPerturbation(0.3, "auto")) == (
        "QuantizedPerturbation(perturb_prob=0.3, temperature=auto, mode=transition, "
        "distance=squared_euclidean, neighbors=None)"
    )
