"""Nearest codeword search: one matrix product's cost, without the N x K matrix.

``argmin_k ||z - c_k||^2 = argmin_k (||c_k||^2 / 2 - z . c_k)``: the norm of ``z`` does not matter to the minimum.
The codebook's mean is subtracted from both sides first: distances stay, and float32 no longer cancels when a codebook
sits far from the origin. Tokens go through a small buffer by chunks; the least score is looked for among the
minima of blocks of codes, since a plain minimum is many times faster than one that keeps its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["extend_codebook", "full_precision", "nearest_code", "transposed_product"]

# 2**23 float32 scores are 32 MiB: large enough for one matrix product to run at full speed, small on any machine.
MAX_BUFFER_ELEMENTS = 2**23
# On a CPU this many tokens at a time are fastest: their scores stay in its cache.
_CPU_COLUMNS = 128


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
    mkldnn = torch.backends.mkldnn
    backends: list[Any] = [torch.backends.cuda.matmul, mkldnn.matmul, mkldnn.conv]  # type: ignore[attr-defined]
    precisions = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, backend_precision in zip(backends, precisions, strict=True):
            backend.fp32_precision = backend_precision


def _search(features: Tensor, codebook: Tensor, max_elements: int, cpu_columns: int = _CPU_COLUMNS) -> Tensor:
    center = codebook.mean(dim=0)
    tokens, codes = features.shape[0], codebook.shape[0]
    width = math.ceil(math.sqrt(codes))
    blocks = (codes + width - 1) // width
    extended = extend_codebook(codebook, center, blocks * width)
    wanted = cpu_columns if features.device.type == "cpu" else tokens
    columns = max(1, min(max_elements // (blocks * width), wanted, tokens))
    indices = torch.empty((tokens,), dtype=torch.int64, device=features.device)
    for start in range(0, tokens, columns):
        shifted = center - features[start : start + columns]
        one = torch.ones((shifted.shape[0], 1), dtype=shifted.dtype, device=shifted.device)
        scores = transposed_product(extended, torch.cat((shifted, one), dim=1))  # (blocks * width, columns)
        by_block = scores.view(blocks, width, -1)
        block = by_block.amin(dim=1).argmin(dim=0)  # (columns,)
        inside = by_block.gather(0, block.view(1, 1, -1).expand(1, width, -1)).squeeze(0)  # (width, columns)
        indices[start : start + columns] = block * width + inside.argmin(dim=0)
    # infinite features make all scores alike, the padding's, too
    return indices.clamp_max_(codes - 1)


def extend_codebook(codebook: Tensor, center: Tensor, rows: int) -> Tensor:
    """Centred codewords and half their squared norm, ``(rows, D + 1)``; rows beyond K are infinitely far.

    Its product with ``(-z, 1)``, z centred alike, is half the squared distance up to the token's own norm.

    Args:
        codebook: ``(K, D)``.
        center: subtracted from the codewords, ``(D,)``.
        rows: at least K.
    """
    extended = torch.zeros((rows, codebook.shape[1] + 1), dtype=codebook.dtype, device=codebook.device)
    extended[:, -1] = math.inf
    own = extended[: codebook.shape[0]]
    own[:, :-1] = codebook
    own[:, :-1] -= center
    own[:, -1] = torch.linalg.vector_norm(own[:, :-1], dim=1).square().mul(0.5)
    return extended


def transposed_product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T``, ``(M, D)`` and ``(N, D)`` to ``(M, N)``.

    On a CPU as a 1 x 1 convolution over channels-last pixels, which is the same sum: oneDNN's convolutions use the
    whole width of the processor's vectors where the BLAS library's products may use half (MKL on AMD: 2.2 times).

    Args:
        left: ``(M, D)``, contiguous.
        right: ``(N, D)``, contiguous.
    """
    if not torch.jit.is_scripting() and left.device.type == "cpu":
        pixels = left.view(1, left.shape[0], 1, -1).permute(0, 3, 1, 2)
        return F.conv2d(pixels, right.view(right.shape[0], -1, 1, 1)).permute(0, 2, 3, 1).view(left.shape[0], -1)
    result = torch.empty((left.shape[0], right.shape[0]), dtype=left.dtype, device=left.device)
    # out= keeps a scripted search out of the reach of an enclosing autocast
    return torch.mm(left, right.t(), out=result)


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
