"""Codebooks, draws and logits for tests of layers and losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from vqseg_bundle.layers import QuantizedPerturbation, VectorQuantizer

DISTANCES = ("squared_euclidean", "euclidean", "cosine")
#: of codebooks
KINDS = ("mapped", "ema")
#: of features, by spatial dimensions
SHAPES = {2: (2, 6, 5, 7), 3: (2, 6, 3, 4, 5)}


def make_codebook(size: int, width: int = 4, spread: float = 0.7) -> Tensor:
    return spread * torch.randn(size, width, generator=torch.Generator().manual_seed(size))


def make_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def neighbor_law(codes: np.ndarray, codebook: Tensor, temperature: float, distance: str) -> np.ndarray:
    """Rows of exp(-d_ij / T) / Z_i, j != i, written out in float64: an independent reference."""
    codewords = codebook.double().numpy()
    if distance == "cosine":
        unit = codewords / np.linalg.norm(codewords, axis=1, keepdims=True)
        distances = 1.0 - unit[codes] @ unit.T
    else:
        distances = ((codewords[codes, None] - codewords) ** 2).sum(axis=2)
        distances = np.sqrt(distances) if distance == "euclidean" else distances
    weights = np.exp(-distances / temperature)
    weights[np.arange(len(codes)), codes] = 0.0
    return weights / weights.sum(axis=1, keepdims=True)


def chi_square_p(drawn: Tensor, expected: np.ndarray) -> float:
    """P-value of draws ``(K, N)``, row i from code i, under the law ``(K, K)``; rare codes of a row share a bin."""
    observed_bins, expected_bins = [], []
    for codes, row in zip(drawn.numpy(), expected * drawn.shape[1], strict=True):
        observed = np.bincount(codes, minlength=len(row))
        rare = row < 8.0
        if row[rare].sum() < 8.0:  # too few for a bin of their own
            rare[np.where(rare, np.inf, row).argmin()] = True
        observed_bins += [*observed[~rare], observed[rare].sum()]
        expected_bins += [*row[~rare], row[rare].sum()]
    return stats.chisquare(observed_bins, expected_bins, ddof=len(expected) - 1).pvalue


def draw_each_code(perturbation: QuantizedPerturbation, codebook: Tensor, per_code: int = 20_000) -> Tensor:
    indices = torch.arange(len(codebook)).unsqueeze(1).expand(-1, per_code)
    return perturbation.perturb_indices(indices, codebook, generator=make_generator())


def make_quantizer(spatial_dims: int = 2, num_embeddings: int = 40, **arguments: Any) -> VectorQuantizer:
    return VectorQuantizer(spatial_dims, num_embeddings, 6, **arguments)


def tokens_of(channels_first: Tensor) -> Tensor:
    return channels_first.movedim(1, -1).flatten(0, -2)


LOG2 = math.log(2.0)


def logits_of(*probabilities: float) -> Tensor:
    """Logits ``(1, 2, 1, n)`` whose softmax gives class 1 the given probabilities."""
    share = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack((torch.log1p(-share), share.log())).view(1, 2, 1, -1).float()


def opinion_of(*class_1: float) -> Tensor:
    """Probabilities ``(1, 2, 1, n)`` of a pseudo-labeller."""
    share = torch.tensor(class_1)
    return torch.stack((1 - share, share)).view(1, 2, 1, -1)
