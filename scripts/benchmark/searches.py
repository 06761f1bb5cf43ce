"""Nearest-code search against the bare matrix product and other libraries, and the inputs of all cases."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from scripts.benchmark.contenders import Case, Comparison, Contender, Plan
from scripts.benchmark.reference_code import published_quantizer
from vqseg_bundle.layers import VectorQuantizer, nearest_code

__all__ = [
    "CODEBOOK_KINDS",
    "LARGE_SEARCH",
    "SEARCH",
    "faiss_search",
    "make_codebook",
    "make_indices",
    "make_tokens",
    "monai_search",
    "our_search",
]

# Squared norm of a codeword: 1 is the published initialisation, for which QPM's law is nearly uniform at temperature 1;
# in the tens it reaches only the nearest neighbours.
CODEBOOK_KINDS = {"at initialisation": 1.0, "spread": 30.0}


def make_codebook(codes: int, width: int, device: str, kind: str = "at initialisation") -> Tensor:
    """Normal codewords ``(codes, width)`` with the expected squared norm of ``kind``."""
    scale = (CODEBOOK_KINDS[kind] / width) ** 0.5
    return torch.randn(codes, width, generator=torch.Generator().manual_seed(0)).mul_(scale).to(device)


def make_tokens(tokens: int, width: int, device: str) -> Tensor:
    """Normal tokens ``(tokens, width)`` on the scale of a codebook at initialisation."""
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(1)).mul_(width**-0.5).to(device)


def make_indices(tokens: int, codes: int, device: str) -> Tensor:
    """Uniform code indices ``(1, tokens)``, int64, with nearly the maximum number of distinct codes."""
    return torch.randint(codes, (1, tokens), generator=torch.Generator().manual_seed(2)).to(device)


def our_search(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    """The bundle's search; its work, like those below, returns the indices ``(tokens,)``."""
    return partial(nearest_code, make_tokens(tokens, width, device), make_codebook(codes, width, device))


def monai_search(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    """MONAI's ``VectorQuantizer`` in eval mode."""
    from monai.networks.layers.vector_quantizer import EMAQuantizer, VectorQuantizer

    quantizer = VectorQuantizer(EMAQuantizer(2, codes, width)).to(device).eval()
    quantizer.quantizer.embedding.weight.data.copy_(make_codebook(codes, width, device))
    features = make_tokens(tokens, width, device).t().reshape(1, width, tokens, 1).contiguous()
    return _without_gradients(lambda: quantizer.quantize(features).flatten())


def faiss_search(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    """faiss' exact ``IndexFlatL2`` on the CPU with PyTorch's number of threads.

    Raises:
        ValueError: the device is not the CPU.
    """
    if torch.device(device).type != "cpu":
        raise ValueError(f"faiss_search measures faiss-cpu: device must be 'cpu', got {device!r}.")
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(width)
    index.add(make_codebook(codes, width, device).numpy())
    features = make_tokens(tokens, width, device).numpy()
    return lambda: torch.from_numpy(index.search(features, 1)[1]).flatten()


def _lucidrains_search(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    """Euclidean ``VectorQuantize`` of vector-quantize-pytorch in eval mode."""
    from vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(dim=width, codebook_size=codes).to(device).eval()
    quantizer.codebook = make_codebook(codes, width, device)
    features = make_tokens(tokens, width, device).unsqueeze(0)
    return _without_gradients(lambda: quantizer(features)[1].flatten())


def _our_quantizer(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    quantizer = VectorQuantizer(2, codes, width).to(device).eval()
    features = make_tokens(tokens, width, device).t().reshape(1, width, tokens, 1).contiguous()
    return _without_gradients(lambda: quantizer(features).indices.flatten())


def _published(directory: str, tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    quantizer = published_quantizer(directory, make_codebook(codes, width, device)).eval()
    features = make_tokens(tokens, width, device)
    return _without_gradients(lambda: quantizer(features)[1])


def _product(into: bool, tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    left, right = make_tokens(tokens, width, device), make_codebook(codes, width, device).t()
    return partial(torch.mm, left, right, out=torch.ones(tokens, codes, device=device) if into else None)


def _without_gradients(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return torch.no_grad()(work)


def _comparison(plan: Plan, tokens: int, codes: int, width: int) -> Comparison:
    def contender(name: str, prepare: Callable, matrices: float = 0.0, unavailable: str = "") -> Contender:
        """``matrices``: approximate peak memory in units of the N x K float32 matrix."""
        work = partial(prepare, tokens, codes, width, plan.device)
        return Contender(name, work, matrices * 4.0 * tokens * codes, unavailable=unavailable)

    on_cpu = torch.device(plan.device).type == "cpu"
    faiss = ("" if find_spec("faiss") else "not installed") if on_cpu else "measured on the CPU only"
    lucidrains = "" if find_spec("vector_quantize_pytorch") else "not installed"
    contenders = [
        contender("torch.mm", partial(_product, False), 1.0),
        contender("torch.mm into a given result", partial(_product, True), 1.0),
        contender("ours", our_search),
        contender("ours, whole VectorQuantizer", _our_quantizer),
        contender("faiss IndexFlatL2", faiss_search, unavailable=faiss),
        contender("MONAI VectorQuantizer", monai_search, 4.1),
        contender("vector-quantize-pytorch", _lucidrains_search, 4.1, lucidrains),
    ]
    if plan.reference_code:
        contenders.append(contender("published quantiser", partial(_published, plan.reference_code), 3.0))
    return Comparison({"N": tokens, "D": width, "K": codes}, tuple(contenders), "torch.mm")


def _build(plan: Plan) -> list[Comparison]:
    if plan.quick:
        return [_comparison(plan, 64, 256, 16)]
    return [_comparison(plan, tokens, 16384, width) for tokens in (1024, 8192) for width in (128, 384)]


def _build_large(plan: Plan) -> list[Comparison]:
    if plan.quick:
        return [_comparison(plan, 128, 256, 8)]
    return [_comparison(plan, 65536, 16384, width) for width in (128, 384)]


SEARCH = Case(
    "Nearest code",
    "N tokens of width D against K codewords. `torch.mm` is the bare product N x D x K and the baseline; it allocates "
    "its N x K result, as everyone does who has none at hand. The whole quantisers (ours, MONAI's, "
    "vector-quantize-pytorch's, the published one) also look the codewords up; ours and the published one also "
    "project the codebook.",
    _build,
)
LARGE_SEARCH = Case("Nearest code, many tokens", "As above.", _build_large)
