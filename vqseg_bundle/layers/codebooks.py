"""Two kinds of codebooks for a vector quantiser.

:class:`MappedCodebook` is the paper's: a learned linear map of a frozen random codebook, so that every gradient step
moves all codewords (SimVQ, https://arxiv.org/abs/2411.02038). :class:`EMACodebook` follows the features by an
exponential moving average (van den Oord et al., 2017, https://arxiv.org/abs/1711.00937, appendix A.1).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vqseg_bundle.common import exact_dtype, process_count

__all__ = ["EMACodebook", "MappedCodebook"]


class MappedCodebook(nn.Module):
    r"""Codewords :math:`c_k = W b_k`: frozen random vectors :math:`b_k`, learned square map :math:`W`.

    ``b_k ~ N(0, I / D)``. ``W`` starts orthogonal, so the codewords keep the random vectors' distances.

    Args:
        num_embeddings: number of codewords, K.
        embedding_dim: width of a codeword, D.
    """

    __constants__ = ("follows_gradient",)
    follows_gradient = True

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.basis: Tensor
        self.register_buffer("basis", torch.randn(num_embeddings, embedding_dim) * embedding_dim**-0.5)
        self.mapping = nn.Linear(embedding_dim, embedding_dim, bias=False)
        nn.init.orthogonal_(self.mapping.weight)

    def forward(self) -> Tensor:
        """Codewords ``(K, D)`` with gradient to the mapping."""
        codewords = self.mapping(self.basis)
        if torch.jit.is_scripting() and codewords.dtype != self.basis.dtype:
            # a script cannot switch off an enclosing autocast, which leaves float64 alone
            codewords = F.linear(self.basis.double(), self.mapping.weight.double()).to(self.basis.dtype)
        return codewords

    @torch.jit.unused
    @torch.no_grad()
    def update(self, features: Tensor, indices: Tensor) -> None:
        """Do nothing: this codebook learns by gradient."""

    @torch.jit.unused
    @torch.no_grad()
    def revive(self, codes: Tensor, features: Tensor) -> None:
        """Move some codewords onto given features by solving ``W b = z`` for their random vectors.

        Args:
            codes: ``(M,)``, int64, the codes to move.
            features: ``(M, D)``, where to.
        """
        dtype = exact_dtype(features.device)
        inverse = torch.linalg.pinv(self.mapping.weight.to(dtype))
        self.basis[codes] = (features.to(dtype) @ inverse.t()).to(self.basis.dtype)


class EMACodebook(nn.Module):
    r"""Codewords that follow the mean of their assigned tokens.

    With decay :math:`\gamma`, counts :math:`n_k` and sums :math:`s_k` of a batch:
    :math:`N_k \leftarrow \gamma N_k + (1-\gamma) n_k`, :math:`S_k \leftarrow \gamma S_k + (1-\gamma) s_k`,
    :math:`c_k = S_k / N_k`. A code without tokens stays where it is. Updated only by an explicit call, never by
    ``forward``.

    Args:
        num_embeddings: number of codewords, K.
        embedding_dim: width of a codeword, D.
        decay: :math:`\gamma` in ``[0, 1)``.
    """

    __constants__ = ("follows_gradient",)
    follows_gradient = False

    def __init__(self, num_embeddings: int, embedding_dim: int, decay: float = 0.99) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must lie in [0, 1), got {decay}.")
        self.decay = decay
        codewords = torch.randn(num_embeddings, embedding_dim) * embedding_dim**-0.5
        self.codewords: Tensor
        self.counts: Tensor
        self.sums: Tensor
        self.register_buffer("codewords", codewords)
        self.register_buffer("counts", torch.ones(num_embeddings))
        self.register_buffer("sums", codewords.clone())

    def forward(self) -> Tensor:
        """Codewords ``(K, D)``, without gradient; a copy, so that updates do not change tensors saved in a graph."""
        return self.codewords.clone()

    @torch.jit.unused
    @torch.no_grad()
    def update(self, features: Tensor, indices: Tensor) -> None:
        """One moving-average step; sums over all processes if several train together.

        Args:
            features: tokens ``(N, D)``.
            indices: their codes ``(N,)``, int64.
        """
        counts = torch.bincount(indices, minlength=self.counts.shape[0]).to(self.counts.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, indices, features.to(self.sums.dtype))
        if process_count() > 1:
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.counts.lerp_(counts, 1.0 - self.decay)
        self.sums.lerp_(sums, 1.0 - self.decay)
        used = counts > 0
        self.codewords[used] = self.sums[used] / self.counts[used].unsqueeze(1)

    @torch.jit.unused
    @torch.no_grad()
    def revive(self, codes: Tensor, features: Tensor) -> None:
        """Move some codewords onto given features, as if each had just one token.

        Args:
            codes: ``(M,)``, int64, the codes to move.
            features: ``(M, D)``, where to.
        """
        self.codewords[codes] = features.to(self.codewords.dtype)
        self.sums[codes] = features.to(self.sums.dtype)
        self.counts[codes] = 1.0
