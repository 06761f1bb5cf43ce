"""Colours of feature vectors, in which like ones look alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["principal_colors"]

# Colours span the reference but for the outermost at each end.
_QUANTILE = 0.02


def principal_colors(reference: Tensor, others: Sequence[Tensor] = ()) -> list[Tensor]:
    """Colours of features: the three first principal components of the reference are red, green and blue.

    Args:
        reference: ``(N, C)``, N at least 3.
        others: ``(M, C)`` each; same components and same scale, so that like features have like colours.

    Returns:
        ``(N, 3)`` of the reference, then ``(M, 3)`` of each other, in [0, 1].
    """
    mean = reference.mean(dim=0)
    components = torch.linalg.svd(reference - mean, full_matrices=False).Vh[:3]
    # a singular vector's sign is arbitrary: its largest entry is made positive, on any machine
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    components = components * largest.sign()
    projected = [(each - mean) @ components.T for each in (reference, *others)]
    low, high = (projected[0].quantile(share, dim=0) for share in (_QUANTILE, 1 - _QUANTILE))
    span = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
    return [((each - low) / span).clamp(0, 1) for each in projected]
