"""Nearest codeword search: one matrix product's cost, without the N x K matrix.

``argmin_k ||z - c_k||^2 = argmin_k (||c_k||^2 / 2 - z . c_k)``: the norm of ``z`` does not matter to the minimum.
The codebook's mean is subtracted from both sides first: distances stay, and float32 no longer cancels when a codebook
sits far from the origin. Tokens go through one preallocated buffer by chunks; the least score is looked for among the
minima of blocks of codes, since a plain minimum is many times faster than one that keeps its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["full_precision", "nearest_code"]

# 2**23 float32 scores are 32 MiB: large enough for one matrix product to run at full speed, small on any machine.
MAX_BUFFER_ELEMENTS = 2**23
# Fewer tokens get a smaller buffer, down to this many: the first touch of its memory costs as much as its use.
_MIN_COLUMNS = 128


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Switch autocast off for ``device_type`` and reduced-precision float32 matrix products off for every device.

    Under TF32 or bfloat16 the nearest code of a collapsing or offset codebook is wrong for up to 99 % of the tokens.

    Args:
        device_type: ``tensor.device.type`` of what is computed inside.
    """
    with _ieee_matmul(), torch.autocast(device_type=device_type, enabled=False):
        yield


@contextmanager
def _ieee_matmul() -> Iterator[None]:
    """Full-precision float32 matrix products, whichever of PyTorch's two interfaces the caller has set them by."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # before PyTorch 2.9
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
        return
    # the older getter raises once a caller has used this newer interface
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    precisions = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, backend_precision in zip(backends, precisions, strict=True):
            backend.fp32_precision = backend_precision


def _search(features: Tensor, codebook: Tensor, max_elements: int, min_columns: int = _MIN_COLUMNS) -> Tensor:
    center = codebook.mean(dim=0)
    codebook = codebook - center
    half_norms = torch.linalg.vector_norm(codebook, dim=1, keepdim=True).square().mul(0.5)  # (K, 1)
    tokens, codes = features.shape[0], codebook.shape[0]
    width = math.ceil(math.sqrt(codes))
    blocks = (codes + width - 1) // width
    columns = max(1, min(max_elements // (blocks * width), max(min_columns, codebook.shape[1], tokens // 8), tokens))
    scores = torch.empty((blocks * width * columns,), dtype=features.dtype, device=features.device)
    indices = torch.empty((tokens,), dtype=torch.int64, device=features.device)
    for start in range(0, tokens, columns):
        count = min(columns, tokens - start)
        chunk = scores[: blocks * width * count].view(blocks * width, count)
        chunk[codes:] = math.inf
        # codes by tokens: some libraries' products are faster this way round, and minima run along the memory
        # out= also keeps a scripted search out of the reach of an enclosing autocast
        shifted = features[start : start + count] - center
        torch.addmm(half_norms, codebook, shifted.t(), alpha=-1.0, out=chunk[:codes])
        by_block = chunk.view(blocks, width, count)
        block = by_block.amin(dim=1).argmin(dim=0)  # (count,)
        inside = by_block.gather(0, block.view(1, 1, -1).expand(1, width, -1)).squeeze(0)  # (width, count)
        indices[start : start + count] = block * width + inside.argmin(dim=0)
    # infinite features make all scores alike, the padding's, too
    return indices.clamp_max_(codes - 1)


def nearest_code(features: Tensor, codebook: Tensor, max_elements: int = MAX_BUFFER_ELEMENTS) -> Tensor:
    """Index of the nearest codeword, ``argmin_k ||z - c_k||``, for every token.

    Runs in float32 (float64 for float64 input) whatever autocast or TF32 say, without gradient. Scriptable.

    Args:
        features: tokens, ``(N, D)``, any floating dtype.
        codebook: codewords, ``(K, D)``.
        max_elements: size of the score buffer; peak extra memory is this many elements whatever N is.

    Returns:
        ``(N,)``, int64 in ``[0, K)``. Of several codewords at exactly the same distance, any one.
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
