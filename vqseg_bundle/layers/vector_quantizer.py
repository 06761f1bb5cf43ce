"""Vector quantisation of a feature map (VQ-Seg, section "vector quantisation"; van den Oord et al., 2017)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vqseg_bundle.common import process_count
from vqseg_bundle.layers.code_entropy import code_use_entropy
from vqseg_bundle.layers.code_products import full_precision
from vqseg_bundle.layers.codebooks import EMACodebook, MappedCodebook
from vqseg_bundle.layers.nearest_code import nearest_code

__all__ = ["VectorQuantizer", "VectorQuantizerOutput", "lookup"]


class VectorQuantizerOutput(NamedTuple):
    """What :class:`VectorQuantizer` returns.

    Attributes:
        quantized: ``(B, D, *S)``, with the codewords' values and the features' gradient (straight-through).
        indices: ``(B, *S)``, int64 in ``[0, K)``.
        commitment_loss: scalar, codebook and commitment terms.
        entropy_loss: scalar, the code-use entropy; 0 if it is turned off or in ``eval`` mode.
    """

    quantized: Tensor
    indices: Tensor
    commitment_loss: Tensor
    entropy_loss: Tensor


def lookup(indices: Tensor, codebook: Tensor) -> Tensor:
    """Codewords for a map of indices, channels first.

    Args:
        indices: ``(B, *S)``, int64 in ``[0, K)``.
        codebook: ``(K, D)``.

    Returns:
        ``(B, D, *S)``, in the codebook's dtype, with gradient to the codebook.
    """
    return F.embedding(indices, codebook).movedim(-1, 1)


class VectorQuantizer(nn.Module):
    r"""Replace each feature vector with its nearest codeword.

    For each token, :math:`i = \arg\min_k \lVert z - c_k \rVert`; the output is :math:`c_i`, and gradients pass straight
    through to the features. The search is always in float32 and centred, regardless of autocast. ``commitment_loss`` is
    :math:`\lVert \mathrm{sg}(z) - c_i \rVert^2 + \beta \lVert z - \mathrm{sg}(c_i) \rVert^2`, summed over channels and
    averaged over tokens; the first term only if the codebook learns by gradient. ``forward`` changes no parameter or
    buffer in either mode; only :meth:`update` and :meth:`revive` do.

    Args:
        spatial_dims: number of spatial dimensions, 2 or 3.
        num_embeddings: number of codewords, K, at least 2.
        embedding_dim: channels of the input and width of a codeword, D.
        codebook_type: "mapped" (the paper's: learned linear map of a frozen random codebook) or "ema".
        normalize: project features and codewords onto the unit sphere, for a cosine search. Then
            :meth:`project_codebook` returns unit vectors, and so does ``quantized``.
        commitment_cost: :math:`\beta`.
        entropy_temperature: temperature of the code-use entropy, in units of squared distance; 0 disables it.
        entropy_tokens: the entropy is that of at most so many tokens, drawn from the batch, since its time
            grows with tokens times codes; None takes all.
        ema_decay: decay of the "ema" codebook.

    Shape:
        - features: ``(B, D, *S)``.
        - codebook: ``(K, D)``, from :meth:`project_codebook`, so that it can be computed once per step; None computes
          it.

    Raises:
        ValueError: an argument is out of range, or the input does not have D channels.

    Examples:
        >>> quantizer = VectorQuantizer(spatial_dims=2, num_embeddings=16, embedding_dim=8)
        >>> output = quantizer(torch.randn(1, 8, 4, 4))
        >>> output.quantized.shape, output.indices.shape
        (torch.Size([1, 8, 4, 4]), torch.Size([1, 4, 4]))
    """

    __constants__ = ("entropy_temperature", "normalize")

    def __init__(
        self,
        spatial_dims: int,
        num_embeddings: int,
        embedding_dim: int,
        codebook_type: str = "mapped",
        normalize: bool = False,
        commitment_cost: float = 0.25,
        entropy_temperature: float = 0.0,
        ema_decay: float = 0.99,
        entropy_tokens: int | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        if num_embeddings < 2:
            raise ValueError(f"num_embeddings (K, the number of codewords) must be at least 2, got {num_embeddings}.")
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, got {embedding_dim}.")
        if not (commitment_cost >= 0 and entropy_temperature >= 0):
            raise ValueError(
                "commitment_cost and entropy_temperature must not be negative, "
                f"got {commitment_cost} and {entropy_temperature}."
            )
        if entropy_tokens is not None and entropy_tokens < 1:
            raise ValueError(f"entropy_tokens must be at least 1, or None for all tokens, got {entropy_tokens}.")
        self.spatial_dims = spatial_dims
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.normalize = normalize
        self.commitment_cost = commitment_cost
        self.entropy_temperature = entropy_temperature
        self.entropy_tokens = entropy_tokens
        self.codebook = _build_codebook(codebook_type, num_embeddings, embedding_dim, ema_decay)

    @torch.jit.export
    def project_codebook(self) -> Tensor:
        """The codewords ``(K, D)``, with gradient to the mapping if the codebook has one."""
        if torch.jit.is_scripting():
            codebook = self.codebook()
        else:
            with full_precision(next(self.codebook.buffers()).device.type):
                codebook = self.codebook()
        return F.normalize(codebook, dim=1) if self.normalize else codebook

    def forward(
        self, features: Tensor, codebook: Tensor | None = None, weights: Tensor | None = None
    ) -> VectorQuantizerOutput:
        """Quantise a feature map; see the class. ``weights``: of the tokens in the code-use entropy."""
        if features.dim() != self.spatial_dims + 2 or features.shape[1] != self.embedding_dim:
            raise ValueError(
                f"features must be (B, {self.embedding_dim}, *S) with {self.spatial_dims} spatial dimensions, "
                f"got shape {features.shape}."
            )
        if codebook is None:
            codebook = self.project_codebook()
        if self.normalize:
            features = F.normalize(features, dim=1)
        tokens = features.movedim(1, -1).flatten(0, -2)  # (N, D)
        indices = nearest_code(tokens, codebook).view(features.shape[:1] + features.shape[2:])  # (B, *S)
        codewords = lookup(indices, codebook)  # (B, D, *S)
        commitment = self.commitment_cost * _squared_error(features, codewords.detach())
        if self.codebook.follows_gradient:
            commitment = commitment + _squared_error(features.detach(), codewords)
        # z - sg(z) is exactly zero, so the value is the codeword, bit for bit
        quantized = codewords.detach().to(features.dtype) + (features - features.detach())
        return VectorQuantizerOutput(quantized, indices, commitment, self._entropy(tokens, codebook, weights))

    def _entropy(self, tokens: Tensor, codebook: Tensor, weights: Tensor | None) -> Tensor:
        entropy = torch.zeros((), dtype=torch.float32, device=tokens.device)
        if not torch.jit.is_scripting() and self.training and self.entropy_temperature > 0:
            dtype = torch.promote_types(tokens.dtype, torch.float32)
            if self.entropy_tokens is not None and self.entropy_tokens < len(tokens):
                # at random, since tokens at a constant distance would lie in the same few rows of every image
                chosen = torch.randperm(len(tokens), device=tokens.device)[: self.entropy_tokens]
                tokens = tokens[chosen]
                weights = None if weights is None else weights[chosen] / _mean_over_processes(weights[chosen])
            temperature = self.entropy_temperature
            entropy = code_use_entropy(tokens.to(dtype), codebook.to(dtype), temperature, weights=weights)
        return entropy

    @torch.jit.unused
    def update(self, features: Tensor, indices: Tensor) -> None:
        """One moving-average step of an "ema" codebook; does nothing for a "mapped" one.

        Args:
            features: the map that was quantised, ``(B, D, *S)``.
            indices: its codes, ``(B, *S)``.
        """
        self.codebook.update(self._tokens(features), indices.flatten())

    @torch.jit.unused
    def revive(self, codes: Tensor, features: Tensor) -> None:
        """Move some codewords onto given token vectors.

        Args:
            codes: ``(M,)``, int64.
            features: ``(M, D)``.
        """
        self.codebook.revive(codes, F.normalize(features, dim=1) if self.normalize else features)

    @torch.jit.unused
    def _tokens(self, features: Tensor) -> Tensor:
        tokens = features.detach().movedim(1, -1).flatten(0, -2).float()
        return F.normalize(tokens, dim=1) if self.normalize else tokens


def _squared_error(left: Tensor, right: Tensor) -> Tensor:
    return (left - right).square().sum(dim=1).mean()


def _mean_over_processes(values: Tensor) -> Tensor:
    """Mean of as many values in each process."""
    mean = values.mean()
    if process_count() > 1:
        dist.all_reduce(mean)
    return mean / process_count()


def _build_codebook(
    codebook_type: str, num_embeddings: int, embedding_dim: int, decay: float
) -> MappedCodebook | EMACodebook:
    if codebook_type == "mapped":
        return MappedCodebook(num_embeddings, embedding_dim)
    if codebook_type == "ema":
        return EMACodebook(num_embeddings, embedding_dim, decay)
    raise ValueError(f'codebook_type must be "mapped" or "ema", got {codebook_type!r}.')
