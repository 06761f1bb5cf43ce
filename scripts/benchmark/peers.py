"""Other libraries' nearest-code searches; each is imported only where it is measured."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from scripts.benchmark.inputs import make_codebook, make_tokens

__all__ = ["faiss_search", "lucidrains_search", "missing_package", "monai_search"]


def missing_package(name: str) -> str:
    """Status for a contender whose package cannot be imported; empty where it can."""
    return "" if find_spec(name) else "not installed"


def monai_search(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    """MONAI's ``VectorQuantizer`` in eval mode; its work returns the indices ``(tokens,)``."""
    from monai.networks.layers.vector_quantizer import EMAQuantizer, VectorQuantizer

    quantizer = VectorQuantizer(EMAQuantizer(2, codes, width)).to(device).eval()
    quantizer.quantizer.embedding.weight.data.copy_(make_codebook(codes, width, device))
    features = make_tokens(tokens, width, device).t().reshape(1, width, tokens, 1).contiguous()

    @torch.no_grad()
    def work() -> Tensor:
        return quantizer.quantize(features).flatten()

    return work


def lucidrains_search(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    """Euclidean ``VectorQuantize`` of vector-quantize-pytorch in eval mode; its work returns the indices."""
    from vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(dim=width, codebook_size=codes).to(device).eval()
    quantizer.codebook = make_codebook(codes, width, device)
    features = make_tokens(tokens, width, device).unsqueeze(0)

    @torch.no_grad()
    def work() -> Tensor:
        _, indices, _ = quantizer(features)
        return indices.flatten()

    return work


def faiss_search(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    """faiss' exact ``IndexFlatL2`` on the CPU with PyTorch's number of threads; its work returns the indices.

    Raises:
        ValueError: another device than the CPU.
    """
    if torch.device(device).type != "cpu":
        raise ValueError(f"faiss_search measures faiss-cpu: device must be 'cpu', got {device!r}.")
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(width)
    index.add(make_codebook(codes, width, device).numpy())
    features = make_tokens(tokens, width, device).numpy()

    def work() -> Tensor:
        _, indices = index.search(features, 1)
        return torch.from_numpy(indices).flatten()

    return work
