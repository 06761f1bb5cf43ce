from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vqseg_bundle.layers import code_use_entropy

TOKENS, SIZE, DIM = 37, 19, 5


def _plain(features: Tensor, codebook: Tensor, temperature: float) -> Tensor:
    logits = -(features.unsqueeze(1) - codebook).square().sum(dim=2) / temperature
    p = logits.softmax(dim=1)
    mean = p.mean(dim=0)
    return -(p * logits.log_softmax(dim=1)).sum(dim=1).mean() + (mean * mean.log()).sum()


def _inputs(dtype: torch.dtype = torch.float64, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(TOKENS, DIM, generator=generator, dtype=torch.float64) + offset
    codebook = torch.randn(SIZE, DIM, generator=generator, dtype=torch.float64) + offset
    return features.to(dtype).requires_grad_(), codebook.to(dtype).requires_grad_()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 10.0])
@pytest.mark.parametrize("rows", [0, 1, 5, TOKENS, 1000])
def test_equals_the_plain_formula_in_value_and_gradients(rows, temperature):
    features, codebook = _inputs()
    expected = _plain(features, codebook, temperature)
    value = code_use_entropy(features, codebook, temperature, max_elements=rows * SIZE)
    assert value.item() == pytest.approx(expected.item(), rel=0, abs=1e-10)
    ours = torch.autograd.grad(3.0 * value, (features, codebook))
    plain = torch.autograd.grad(3.0 * expected, (features, codebook))
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10)
    assert min(gradient.abs().max().item() for gradient in plain) > 1e-3


def test_gradcheck():
    features, codebook = _inputs()
    assert torch.autograd.gradcheck(
        lambda z, c: code_use_entropy(z, c, 0.7, max_elements=4 * SIZE), (features, codebook)
    )


def test_a_second_derivative_is_refused_not_wrong():
    features, codebook = _inputs()
    (gradient,) = torch.autograd.grad(code_use_entropy(features, codebook), features, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 100.0])
def test_bounds(temperature):
    features, codebook = _inputs()
    assert -math.log(SIZE) <= code_use_entropy(features, codebook, temperature).item() <= 1e-12


def test_sure_tokens_spread_evenly_reach_the_lower_bound():
    codes = 10.0 * torch.eye(8, dtype=torch.float64)
    assert code_use_entropy(codes.repeat(3, 1), codes, 0.1).item() == pytest.approx(-math.log(8), abs=1e-12)


def test_tokens_all_alike_reach_the_upper_bound():
    _, codebook = _inputs()
    alike = torch.full((6, DIM), 0.3, dtype=torch.float64)
    assert code_use_entropy(alike, codebook).item() == pytest.approx(0.0, abs=1e-12)


def test_float32_far_from_the_origin():
    features, codebook = _inputs(torch.float32, offset=100.0)
    expected = _plain(features.double(), codebook.double(), 1.0)
    value = code_use_entropy(features, codebook)
    assert value.item() == pytest.approx(expected.item(), abs=1e-5)
    ours = torch.autograd.grad(value, (features, codebook))
    torch.testing.assert_close(ours, torch.autograd.grad(expected, (features, codebook)), rtol=1e-4, atol=1e-6)


def test_autocast_changes_nothing():
    features, codebook = _inputs(torch.float32)
    plain = code_use_entropy(features, codebook)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = code_use_entropy(features, codebook)
        gradient = torch.autograd.grad(cast, codebook)
    assert cast.item() == plain.item()
    assert torch.equal(gradient[0], torch.autograd.grad(plain, codebook)[0])


def test_codes_whose_probability_underflows_leave_gradients_finite():
    features = torch.tensor([[0.0], [1.0]], requires_grad=True)
    codebook = torch.tensor([[0.0], [1.0], [1e4]], requires_grad=True)
    value = code_use_entropy(features, codebook, 0.01)
    value.backward()
    assert value.item() == pytest.approx(-math.log(2), abs=1e-5)
    assert features.grad.isfinite().all()
    assert codebook.grad.isfinite().all()


class _LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_no_tensor_of_all_tokens_by_all_codes():
    features, codebook = torch.randn(3000, 2, requires_grad=True), torch.randn(500, 2, requires_grad=True)
    with _LargestTensor() as largest:
        code_use_entropy(features, codebook, max_elements=20_000).backward()
    assert largest.elements == 20_000


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive, got"):
        code_use_entropy(*_inputs(), temperature)
