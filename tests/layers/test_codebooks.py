"""Codebooks and the entropy of their use."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vqseg_bundle.layers import EMACodebook, MappedCodebook, code_use_entropy
from vqseg_bundle.layers import codebooks as codebooks_module


def _ema(codewords: list[list[float]], decay: float) -> EMACodebook:
    values = torch.tensor(codewords)
    codebook = EMACodebook(*values.shape, decay=decay)
    codebook.codewords.copy_(values)
    codebook.sums.copy_(values)
    return codebook


def _skewed(codebook: MappedCodebook) -> MappedCodebook:
    """A mapping far from orthogonal, as training leaves it: singular values from 0.1 to 3."""
    left, right = (torch.linalg.qr(torch.randn(8, 8))[0] for _ in range(2))
    with torch.no_grad():
        codebook.mapping.weight.copy_(left @ torch.linspace(0.1, 3.0, 8).diag() @ right)
    return codebook


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_mapped_codewords_start_at_the_distances_of_the_random_vectors():
    codebook = MappedCodebook(200, 16)
    torch.testing.assert_close(torch.pdist(codebook()), torch.pdist(codebook.basis))
    # b_k ~ N(0, I / D): the mean squared norm is 1 with a standard error of sqrt(2 / (D K)) = 0.025
    assert codebook.basis.square().sum(dim=1).mean().item() == pytest.approx(1.0, abs=0.1)


def test_mapped_codewords_are_the_map_of_the_basis():
    codebook = _skewed(MappedCodebook(5, 8))
    expected = torch.stack([codebook.mapping.weight @ vector for vector in codebook.basis])
    torch.testing.assert_close(codebook(), expected)


def test_mapped_codebook_learns_its_map_alone():
    codebook = MappedCodebook(5, 8)
    assert [name for name, _ in codebook.named_parameters()] == ["mapping.weight"]
    before, basis = codebook().detach(), codebook.basis.clone()
    codebook()[0].square().sum().backward()
    with torch.no_grad():
        codebook.mapping.weight -= 0.1 * codebook.mapping.weight.grad
    assert torch.equal(codebook.basis, basis)
    assert ((codebook() - before).abs().amax(dim=1) > 0).all()  # one code's gradient moves every codeword


def test_mapped_codebook_ignores_updates():
    codebook = MappedCodebook(4, 3)
    before = codebook().detach()
    codebook.update(torch.randn(6, 3), torch.zeros(6, dtype=torch.int64))
    assert torch.equal(codebook(), before)


def test_mapped_revive_solves_for_the_basis_and_leaves_the_other_codes():
    codebook = _skewed(MappedCodebook(10, 8))
    before, weight = codebook().detach(), codebook.mapping.weight.detach().clone()
    codes, places = torch.tensor([7, 0, 3]), torch.randn(3, 8) * 5
    codebook.revive(codes, places)
    # condition number 30: float32 keeps five digits
    torch.testing.assert_close(codebook()[codes], places, rtol=1e-4, atol=1e-4)
    others = [1, 2, 4, 5, 6, 8, 9]
    assert torch.equal(codebook()[others], before[others])
    assert torch.equal(codebook.mapping.weight, weight)


def test_ema_step_by_hand():
    codebook = _ema([[0.0], [10.0], [-3.0]], decay=0.75)
    codebook.update(torch.tensor([[1.0], [3.0], [6.0]]), torch.tensor([0, 0, 1]))
    # N = 0.75 * 1 + 0.25 * (2, 1, 0), S = 0.75 * (0, 10, -3) + 0.25 * (4, 6, 0)
    torch.testing.assert_close(codebook.counts, torch.tensor([1.25, 1.0, 0.75]))
    torch.testing.assert_close(codebook.sums, torch.tensor([[1.0], [9.0], [-2.25]]))
    torch.testing.assert_close(codebook(), torch.tensor([[0.8], [9.0], [-3.0]]))


def test_ema_code_without_tokens_keeps_its_place_for_good():
    codebook = _ema([[1.0, 2.0], [3.0, 4.0]], decay=0.5)
    for _ in range(400):  # counts and sums underflow on the way
        codebook.update(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
    assert codebook()[1].tolist() == [3.0, 4.0]
    codebook.update(torch.tensor([[5.0, 6.0]]), torch.tensor([1]))
    torch.testing.assert_close(codebook()[1], torch.tensor([5.0, 6.0]))


def test_ema_converges_to_the_mean_of_its_tokens():
    codebook = _ema([[5.0], [-5.0]], decay=0.9)
    for _ in range(200):
        codebook.update(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([0, 0, 0]))
    assert codebook()[0].item() == pytest.approx(3.0, abs=1e-5)


def test_ema_without_decay_takes_the_mean_of_the_batch():
    codebook = _ema([[5.0], [-5.0]], decay=0.0)
    codebook.update(torch.tensor([[1.0], [2.0], [8.0]]), torch.tensor([0, 0, 1]))
    assert codebook().flatten().tolist() == [1.5, 8.0]


def test_ema_follows_no_gradient_and_hands_out_a_copy():
    codebook = EMACodebook(4, 3)
    given = codebook()
    assert list(codebook.parameters()) == []
    assert not given.requires_grad
    before = given.clone()
    codebook.update(torch.ones(2, 3), torch.tensor([0, 1]))
    assert torch.equal(given, before)
    assert not torch.equal(codebook(), before)


def test_ema_sums_over_processes(monkeypatch):
    alone, together = (_ema([[0.0], [10.0]], decay=0.5) for _ in range(2))
    features, indices = torch.tensor([[1.0], [9.0]]), torch.tensor([0, 1])
    alone.update(torch.cat((features, features)), torch.cat((indices, indices)))
    monkeypatch.setattr(codebooks_module, "process_count", lambda: 2)
    monkeypatch.setattr(codebooks_module.dist, "all_reduce", lambda tensor: tensor.mul_(2))  # a twin process
    together.update(features, indices)
    torch.testing.assert_close(together.state_dict(), alone.state_dict())


def test_ema_revive_is_exact_and_forgets_the_past():
    codebook = _ema([[0.0, 0.0], [7.0, 7.0], [1.0, 1.0]], decay=0.75)
    codebook.counts.copy_(torch.tensor([50.0, 1e-9, 3.0]))
    codebook.revive(torch.tensor([1]), torch.tensor([[0.1, -0.3]]))
    assert torch.equal(codebook(), torch.tensor([[0.0, 0.0], [0.1, -0.3], [1.0, 1.0]]))
    codebook.update(torch.tensor([[4.1, -0.3]]), torch.tensor([1]))
    torch.testing.assert_close(codebook()[1], torch.tensor([1.1, -0.3]))  # 0.75 old + 0.25 new


@pytest.mark.parametrize("codebook", [MappedCodebook(4, 3), EMACodebook(4, 3)], ids=["mapped", "ema"])
def test_reviving_nothing_changes_nothing(codebook):
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    codebook.revive(torch.empty(0, dtype=torch.int64), torch.empty(0, 3))
    torch.testing.assert_close(codebook.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_ema_refuses_a_decay_outside_its_range(decay):
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\), got"):
        EMACodebook(4, 3, decay=decay)


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


@pytest.mark.parametrize("rows", [1, 5, TOKENS])
def test_a_weight_counts_as_so_many_tokens(rows):
    features, codebook = _inputs()
    counts = torch.arange(TOKENS) % 3
    repeated = features.repeat_interleave(counts, dim=0)
    expected = _plain(repeated, codebook, 0.7)
    weights = counts * TOKENS / counts.sum().double()
    value = code_use_entropy(features, codebook, 0.7, max_elements=rows * SIZE, weights=weights)
    assert value.item() == pytest.approx(expected.item(), rel=0, abs=1e-10)
    ours, plain = (torch.autograd.grad(loss, (features, codebook)) for loss in (value, expected))
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10)


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
