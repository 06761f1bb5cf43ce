"""How well adapted features tell a patch's own foundation feature from those of other patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["as_patches", "retrieved", "shuffled"]


def as_patches(features: Tensor) -> Tensor:
    """Patch vectors ``(N, h * w, C)``, row by row, of ``(B, C, h, w)`` or, slice by slice, ``(B, C, h, w, d)``."""
    if features.ndim == 5:
        features = features.movedim(-1, 1).flatten(0, 1)  # (B, C, h, w, d) -> (B * d, C, h, w)
    return features.flatten(2).transpose(1, 2)


def retrieved(queries: Tensor, keys: Tensor) -> Tensor:
    r"""Whether a patch's own key is the nearest of all, by cosine similarity.

    :math:`r_i = [s_{ii} = \max_j s_{ij}] \,/\, |\{j : s_{ij} = s_{ii}\}|` with
    :math:`s_{ij} = \cos(q_i, k_j)`: keys that are equally near share the hit, as a fair draw among them would.

    Args:
        queries: adapted features, ``(..., n, C)``; the n of one leading index are compared with each other.
        keys: foundation features, of the same shape; the own key of a query has the same place.

    Returns:
        Float32 ``(..., n)`` in [0, 1]. Its mean over queries that know nothing of their keys is 1 / n.

    Raises:
        ValueError: the shapes differ.
    """
    if queries.shape != keys.shape:
        raise ValueError(f"queries and keys must have the same shape, got {(*queries.shape,)} and {(*keys.shape,)}.")
    similarities = F.normalize(queries.float(), dim=-1) @ F.normalize(keys.float(), dim=-1).transpose(-1, -2)
    own = similarities.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)  # (..., n, 1)
    nearest = own.squeeze(-1) == similarities.amax(dim=-1)
    return nearest / (similarities == own).sum(dim=-1)


def shuffled(keys: Tensor, generator: torch.Generator) -> Tensor:
    """The keys in random order, each leading index by a permutation of its own: the control of :func:`retrieved`.

    Args:
        keys: ``(..., n, C)``.
        generator: randomness, on the CPU.
    """
    order = torch.rand(keys.shape[:-1], generator=generator).argsort(dim=-1).to(keys.device)
    return keys.gather(-2, order.unsqueeze(-1).expand_as(keys))
