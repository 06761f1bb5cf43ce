"""Tokens, codebooks and code indices to measure on, the same for every contender."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["CODEBOOK_KINDS", "make_codebook", "make_indices", "make_tokens"]

# Squared norm of a codeword: 1 is the published initialisation, where QPM's law is nearly uniform at temperature 1;
# in the tens it reaches the nearest neighbours only.
CODEBOOK_KINDS = {"at initialisation": 1.0, "spread": 30.0}


def make_codebook(codes: int, width: int, device: str, kind: str = "at initialisation") -> Tensor:
    """Normal codewords ``(codes, width)`` of the expected squared norm that ``kind`` stands for."""
    generator = torch.Generator().manual_seed(0)
    scale = (CODEBOOK_KINDS[kind] / width) ** 0.5
    return torch.randn(codes, width, generator=generator).mul_(scale).to(device)


def make_tokens(tokens: int, width: int, device: str) -> Tensor:
    """Normal tokens ``(tokens, width)`` of the scale of a codebook at initialisation."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(tokens, width, generator=generator).mul_(width**-0.5).to(device)


def make_indices(tokens: int, codes: int, device: str) -> Tensor:
    """Uniform code indices ``(1, tokens)``, int64: nearly as many distinct codes as there can be."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(codes, (1, tokens), generator=generator).to(device)
