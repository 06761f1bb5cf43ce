"""A map that is vector-quantised on its way: a skip connection, or the bottleneck below the codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from vqseg_bundle.layers import VectorQuantizer

__all__ = ["QuantizedStage"]


class QuantizedStage(nn.Module):
    """One level's map through its own quantiser: 1x1 convolution, nearest codewords, 1x1 convolution back.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the map, C.
        num_embeddings: number of codewords, K.
        embedding_dim: width of a codeword, D.
        quantizer: further arguments of :class:`~vqseg_bundle.layers.VectorQuantizer`.

    Shape:
        - input and output: ``(B, C, *S)``.

    Examples:
        >>> QuantizedStage(2, channels=12, num_embeddings=16, embedding_dim=8)(torch.randn(1, 12, 4, 4)).shape
        torch.Size([1, 12, 4, 4])
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        num_embeddings: int,
        embedding_dim: int,
        quantizer: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        convolution = Conv[Conv.CONV, spatial_dims]
        self.projection = convolution(channels, embedding_dim, kernel_size=1)
        self.quantizer = VectorQuantizer(spatial_dims, num_embeddings, embedding_dim, **(quantizer or {}))
        self.expansion = convolution(embedding_dim, channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """The decoder's input in deployment."""
        return self.expansion(self.quantizer(self.projection(features)).quantized)
