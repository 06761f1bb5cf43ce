"""Products of codes and tokens, in small chunks at the machine's full speed, in float32 regardless of autocast."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["MAX_BUFFER_ELEMENTS", "extend_codebook", "full_precision", "transposed_product"]

# 2**23 float32 scores are 32 MiB: large enough for one matrix product to run at full speed, small on any machine.
MAX_BUFFER_ELEMENTS = 2**23


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Switch autocast off for ``device_type`` and reduced-precision float32 matrix products off for every device.

    In TF32 or bfloat16 the nearest code is wrong for up to 99 % of the tokens if the codebook collapses or is off the
    origin.

    Args:
        device_type: ``tensor.device.type`` of the tensors in the block.
    """
    with _ieee_matmul(), torch.autocast(device_type=device_type, enabled=False):
        yield


@contextmanager
def _ieee_matmul() -> Iterator[None]:
    """Full-precision float32 matrix products, whichever of PyTorch's two interfaces the caller has used."""
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


def extend_codebook(codebook: Tensor, center: Tensor, rows: int) -> Tensor:
    """Centred codewords and half their squared norms, ``(rows, D + 1)``; rows beyond K are infinitely far away.

    The product with ``(-z, 1)``, z centred likewise, is half the squared distance minus half the token's squared norm.

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

    On a CPU this is a 1 x 1 convolution over channels-last pixels, the same sum: oneDNN's convolutions use the
    processor's whole vector width, while the BLAS library's products may use only half (MKL on AMD takes 2.2 times as
    long).

    Args:
        left: ``(M, D)``, contiguous.
        right: ``(N, D)``, contiguous.
    """
    if not torch.jit.is_scripting() and left.device.type == "cpu":
        pixels = left.view(1, left.shape[0], 1, -1).permute(0, 3, 1, 2)
        return F.conv2d(pixels, right.view(right.shape[0], -1, 1, 1)).permute(0, 2, 3, 1).view(left.shape[0], -1)
    result = torch.empty((left.shape[0], right.shape[0]), dtype=left.dtype, device=left.device)
    # out= shields a scripted search from an enclosing autocast
    return torch.mm(left, right.t(), out=result)
