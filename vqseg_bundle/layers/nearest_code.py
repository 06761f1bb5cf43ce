"""Nearest-codeword search at the cost of one matrix product, without the N x K matrix.

``argmin_k ||z - c_k||^2 = argmin_k (||c_k||^2 / 2 - z . c_k)``: the norm of ``z`` does not affect the minimum. First,
the codebook's mean is subtracted from both sides: distances are unchanged, and float32 does not cancel if the codebook
is far from the origin. Tokens go through a small buffer in chunks. The least score is sought among the minima of blocks
of codes, since a plain minimum is many times faster than one with its index.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vqseg_bundle.layers.code_products import (
    MAX_BUFFER_ELEMENTS,
    extend_codebook,
    full_precision,
    transposed_product,
)

__all__ = ["nearest_code"]

# On a CPU these chunk sizes are fastest: scores and codes stay in its cache.
_CPU_TOKENS = 128
_CPU_CODES = 2**14


def _search(
    features: Tensor,
    codebook: Tensor,
    max_elements: int,
    cpu_tokens: int = _CPU_TOKENS,
    cpu_codes: int = _CPU_CODES,
) -> Tensor:
    on_cpu = features.device.type == "cpu"
    center = codebook.mean(dim=0)
    tokens, codes = features.shape[0], codebook.shape[0]
    at_once = min(codes, cpu_codes, max_elements) if on_cpu else min(codes, max_elements)
    side = math.ceil(math.sqrt(at_once))
    columns = max(1, min(max_elements // (side * side), cpu_tokens if on_cpu else tokens, tokens))
    best = torch.full((tokens,), math.inf, dtype=features.dtype, device=features.device)
    indices = torch.zeros((tokens,), dtype=torch.int64, device=features.device)
    for first in range(0, codes, at_once):
        part = codebook[first : first + at_once]
        width = math.ceil(math.sqrt(part.shape[0]))
        extended = extend_codebook(part, center, (part.shape[0] + width - 1) // width * width)
        for start in range(0, tokens, columns):
            shifted = center - features[start : start + columns]
            one = torch.ones((shifted.shape[0], 1), dtype=shifted.dtype, device=shifted.device)
            scores = transposed_product(extended, torch.cat((shifted, one), dim=1))  # (blocks * width, columns)
            by_block = scores.view(-1, width, shifted.shape[0])
            block = by_block.amin(dim=1).argmin(dim=0)  # (columns,)
            inside = by_block.gather(0, block.view(1, 1, -1).expand(1, width, -1)).squeeze(0)  # (width, columns)
            least = inside.min(dim=0)
            former = best[start : start + columns]
            better = least.values < former
            best[start : start + columns] = torch.where(better, least.values, former)
            found = first + block * width + least.indices
            indices[start : start + columns] = torch.where(better, found, indices[start : start + columns])
    return indices


def nearest_code(features: Tensor, codebook: Tensor, max_elements: int = MAX_BUFFER_ELEMENTS) -> Tensor:
    """Index of the nearest codeword, ``argmin_k ||z - c_k||``, for every token.

    Runs in float32 (float64 for float64 input) regardless of autocast and TF32, without gradient. Scriptable.

    Args:
        features: tokens, ``(N, D)``, any floating dtype.
        codebook: codewords, ``(K, D)``.
        max_elements: size of the score buffer; extra memory peaks at this many elements for any N.

    Returns:
        ``(N,)``, int64 in ``[0, K)``. Ties are broken arbitrarily.
    """
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    tokens, codewords = features.detach().to(dtype), codebook.detach().to(dtype)
    if torch.jit.is_scripting():
        with torch.no_grad():
            indices = _search(tokens, codewords, max_elements)
    else:
        with torch.no_grad(), full_precision(features.device.type):
            indices = _search(tokens, codewords, max_elements)
    return indices
