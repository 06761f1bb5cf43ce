from __future__ import annotations

import functools
import operator

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vqseg_bundle.layers import nearest_code
from vqseg_bundle.layers.code_products import full_precision

SIZE, DIM, TOKENS = 16_384, 32, 512
KINDS = ("random", "clustered", "offset", "far offset")


@functools.cache
def _case(kind: str) -> tuple[Tensor, Tensor]:
    """Tokens ``(N, D)`` lying around randomly chosen codewords, and codewords ``(K, D)``."""
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    codebook, spread = torch.randn(SIZE, DIM, generator=generator), 1.0
    if kind == "clustered":
        spread = 0.02
        centers = torch.randn(64, DIM, generator=generator)
        codebook = centers[torch.arange(SIZE) % 64] + spread * codebook
    elif kind == "offset":
        codebook = codebook + 20.0
    elif kind == "far offset":
        codebook = codebook + 1000.0
    chosen = torch.randint(SIZE, (TOKENS,), generator=generator)
    return codebook[chosen] + 0.5 * spread * torch.randn(TOKENS, DIM, generator=generator), codebook


def _excess(features: Tensor, codebook: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """By how much a chosen code's squared distance exceeds the smallest, in float64, and what float32 may leave.

    A float32 score is a dot product of centered vectors, off by a few units in the last place of
    ``||z||^2 + max ||c||^2``; codes nearer to each other than two such errors are tied as far as float32 can tell.
    """
    center = codebook.double().mean(dim=0)
    tokens, codewords = features.double() - center, codebook.double() - center
    candidate = (codewords.square().sum(dim=1) - 2.0 * tokens @ codewords.t()).argmin(dim=1)
    smallest = (tokens - codewords[candidate]).square().sum(dim=1)
    found = (tokens - codewords[indices]).square().sum(dim=1)
    scale = tokens.square().sum(dim=1) + codewords.square().sum(dim=1).max()
    return found - smallest, 4 * torch.finfo(torch.float32).eps * scale


def _wrong_share(features: Tensor, codebook: Tensor, indices: Tensor) -> float:
    excess, tolerance = _excess(features, codebook, indices)
    return (excess > tolerance).double().mean().item()


def test_hand_computed():
    codebook = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]])
    features = torch.tensor([[1.9, 0.0], [2.1, 0.0], [0.0, 1.6], [-9.0, 1.4]])
    assert nearest_code(features, codebook).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_float64(kind, scripted, autocast):
    features, codebook = _case(kind)
    search = torch.jit.script(nearest_code) if scripted else nearest_code
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        indices = search(features, codebook)
    assert _wrong_share(features, codebook, indices) == 0.0


@pytest.mark.parametrize("kind", ["clustered", "offset"])
def test_the_tolerance_tells_bfloat16_from_float32(kind):
    features, codebook = _case(kind)
    reduced = (codebook.square().sum(dim=1) / 2 - (features.bfloat16() @ codebook.bfloat16().t()).float()).argmin(dim=1)
    assert _wrong_share(features, codebook, reduced) > 0.5


def test_reduced_precision_matrix_products_do_not_reach_the_search():
    features, codebook = _case("clustered")
    torch.set_float32_matmul_precision("medium")
    try:
        indices = nearest_code(features, codebook)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert _wrong_share(features, codebook, indices) == 0.0


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="interface of PyTorch 2.9")
@pytest.mark.parametrize("name", ["cuda.matmul", "mkldnn.matmul", "mkldnn.conv"])
def test_precision_set_by_the_newer_interface_is_overruled_and_restored(name):
    backend = operator.attrgetter(name)(torch.backends)
    before = backend.fp32_precision
    backend.fp32_precision = "tf32"
    try:
        with full_precision("cpu"):
            assert backend.fp32_precision == "ieee"
        assert backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = before


def test_full_precision_restores_after_an_error():
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), full_precision("cpu"):
                torch.mm(torch.zeros(2, 3), torch.zeros(2, 3))
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_inputs_are_compared_exactly_as_they_are(dtype):
    features, codebook = (tensor.to(dtype) for tensor in _case("random"))
    assert _wrong_share(features, codebook, nearest_code(features, codebook)) == 0.0


def test_float64_stays_float64():
    codebook = torch.tensor([[1.0], [1.0 + 1e-6], [3.0]], dtype=torch.float64)
    features = torch.tensor([[1.0 - 1e-7], [1.0 + 9e-7]], dtype=torch.float64)
    assert nearest_code(features, codebook).tolist() == [0, 1]


def test_of_duplicated_codewords_any_is_right():
    distinct = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    indices = nearest_code(distinct, distinct.repeat(5, 1))
    assert (indices % 8).tolist() == list(range(8))


@pytest.mark.parametrize("size", [2, 3, 65_536])
def test_a_codeword_is_its_own_nearest(size):
    codebook = torch.randn(size, 8, generator=torch.Generator().manual_seed(size))
    codes = torch.linspace(0, size - 1, 64, dtype=torch.float64).long()
    assert torch.equal(nearest_code(codebook[codes], codebook), codes)


def test_all_tokens_may_share_one_code():
    codebook = torch.tensor([[0.0], [10.0], [20.0]])
    assert nearest_code(torch.linspace(6, 14, 50).unsqueeze(1), codebook).unique().tolist() == [1]


@pytest.mark.parametrize("max_elements", [1, 100, 777, 10**6])
def test_the_size_of_the_buffer_does_not_matter(max_elements):
    generator = torch.Generator().manual_seed(0)
    features, codebook = torch.randn(50, 6, generator=generator), torch.randn(100, 6, generator=generator)
    expected = (features.unsqueeze(1) - codebook).square().sum(dim=2).argmin(dim=1)
    assert torch.equal(nearest_code(features, codebook, max_elements), expected)


class _LargestTensor(TorchDispatchMode):
    """Elements of the largest storage that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.untyped_storage().nbytes() // result.element_size())
        return result


def test_memory_does_not_grow_with_the_number_of_tokens():
    codebook = torch.randn(1000, 4)
    with _LargestTensor() as largest:
        nearest_code(torch.randn(20_000, 4), codebook, max_elements=10**5)
    assert 10**5 - 1024 < largest.elements <= 10**5


def test_no_tokens_no_codes():
    assert nearest_code(torch.empty(0, 4), torch.randn(5, 4)).shape == (0,)


def test_asks_for_no_gradient():
    features, codebook = torch.randn(5, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    assert not nearest_code(features, codebook).requires_grad


def test_every_number_of_codes_around_the_block_boundaries():
    torch.manual_seed(0)
    tokens = torch.randn(50, 3, dtype=torch.float64)
    for size in (1, 2, 3, 4, 5, 8, 9, 10, 15, 16, 17, 99, 100, 101):
        codebook = torch.randn(size, 3, dtype=torch.float64)
        assert torch.equal(nearest_code(tokens, codebook), torch.cdist(tokens, codebook).argmin(dim=1))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_diverged_features_still_get_an_index_of_the_codebook(value):
    indices = nearest_code(torch.full((4, 3), value), torch.randn(10, 3))
    assert ((indices >= 0) & (indices < 10)).all()
