"""Nearest-code search against the bare matrix product and other libraries."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from scripts.benchmark.comparison import CaseDefinition, Comparison, Contender, Plan, product_seconds
from scripts.benchmark.inputs import make_codebook, make_tokens
from scripts.benchmark.peers import faiss_search, lucidrains_search, missing_package, monai_search
from scripts.benchmark.reference_code import published_quantizer
from vqseg_bundle.layers import VectorQuantizer, nearest_code

__all__ = ["LARGE_SEARCH", "SEARCH"]

_BASELINE = "torch.mm"
# Rough peak memory in units of the N x K float32 matrix; only the memory limit reads it.
_MATRICES = {"torch.mm": 1.0, "published": 3.0, "peers": 4.1}
# Rough times in units of the product.
_PRODUCTS = {"ours": 1.3, "quantizer": 1.6, "faiss": 1.2, "published": 4.0, "peers": 5.0}


def _product(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    left, right = make_tokens(tokens, width, device), make_codebook(codes, width, device).t()
    return partial(torch.mm, left, right)


def _product_into(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    left, right = make_tokens(tokens, width, device), make_codebook(codes, width, device).t()
    return partial(torch.mm, left, right, out=torch.ones(tokens, codes, device=device))


def _ours(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    return partial(nearest_code, make_tokens(tokens, width, device), make_codebook(codes, width, device))


def _our_quantizer(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    quantizer = VectorQuantizer(2, codes, width).to(device).eval()
    features = make_tokens(tokens, width, device).t().reshape(1, width, tokens, 1).contiguous()

    @torch.no_grad()
    def work() -> Tensor:
        return quantizer(features).indices.flatten()

    return work


def _published(directory: str, tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    quantizer = published_quantizer(directory, make_codebook(codes, width, device)).eval()
    features = make_tokens(tokens, width, device)

    @torch.no_grad()
    def work() -> Tensor:
        return quantizer(features)[1]

    return work


def _comparison(plan: Plan, tokens: int, codes: int, width: int) -> Comparison:
    sizes = (tokens, codes, width, plan.device)
    matrix = 4.0 * tokens * codes

    def contender(name: str, prepare: Callable, products: float, matrices: float = 0.0, missing: str = "") -> Contender:
        seconds = product_seconds(tokens, codes, width, products)
        return Contender(name, partial(prepare, *sizes), seconds, matrices * matrix, unavailable=missing)

    on_cpu = torch.device(plan.device).type == "cpu"
    faiss_missing = missing_package("faiss") if on_cpu else "measured on the CPU only"
    peers, peers_memory = _PRODUCTS["peers"], _MATRICES["peers"]
    contenders = [
        contender(_BASELINE, _product, 1.0, _MATRICES[_BASELINE]),
        contender("torch.mm into a given result", _product_into, 1.0, _MATRICES[_BASELINE]),
        contender("ours", _ours, _PRODUCTS["ours"]),
        contender("ours, whole VectorQuantizer", _our_quantizer, _PRODUCTS["quantizer"]),
        contender("faiss IndexFlatL2", faiss_search, _PRODUCTS["faiss"], missing=faiss_missing),
        contender("MONAI VectorQuantizer", monai_search, peers, peers_memory),
        contender(
            "vector-quantize-pytorch",
            lucidrains_search,
            peers,
            peers_memory,
            missing_package("vector_quantize_pytorch"),
        ),
    ]
    if plan.reference_code:
        published = partial(_published, plan.reference_code)
        contenders.append(contender("published quantiser", published, _PRODUCTS["published"], _MATRICES["published"]))
    return Comparison({"N": tokens, "D": width, "K": codes}, tuple(contenders), _BASELINE)


def _build(plan: Plan) -> list[Comparison]:
    if plan.quick:
        return [_comparison(plan, 64, 256, 16)]
    return [_comparison(plan, tokens, 16384, width) for tokens in (1024, 8192) for width in (128, 384)]


def _build_large(plan: Plan) -> list[Comparison]:
    if plan.quick:
        return [_comparison(plan, 128, 256, 8)]
    return [_comparison(plan, 65536, 16384, width) for width in (128, 384)]


_NOTE = (
    "N tokens of width D against K codewords. `torch.mm` is the bare product N x D x K and the baseline; it allocates "
    "its N x K result, as everyone does who has none at hand. The whole quantisers (ours, MONAI's, "
    "vector-quantize-pytorch's, the published one) also look the codewords up; ours and the published one also "
    "project the codebook."
)

SEARCH = CaseDefinition("Nearest code", _NOTE, _build)
LARGE_SEARCH = CaseDefinition("Nearest code, many tokens", "As above.", _build_large)
