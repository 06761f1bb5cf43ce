"""The network of VQ-Seg's published code: a fine-tuned DINOv2 whose last level is quantised, and a DPT decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vqseg_bundle.layers import VectorQuantizer
from vqseg_bundle.networks.dinov2_encoder import DINOv2Encoder
from vqseg_bundle.networks.dpt import DPTDecoder
from vqseg_bundle.networks.unet import UNetDecoder
from vqseg_bundle.networks.vq_network import Encoding, VQNetwork

__all__ = ["DINOv2DPTNet"]

_PATCH = 14
# A window of 224 x 224 needs 80 to 120 maps of its size with fusion_channels 64 (measured); a unit of width is 12.
_FUSION_CHANNELS_A_UNIT = 7


class DINOv2DPTNet(VQNetwork):
    """DINOv2 encoder, vector quantisation of its last level, DPT decoder, and the paper's image decoder.

    The segmentation decoder sees the three shallower levels unquantised and the deepest one quantised, at the encoder's
    width. The image decoder sees only the quantised level. 2D only.

    Args:
        spatial_dims: 2.
        in_channels: channels of the image; unless there are three, they are averaged to grey.
        out_channels: classes, background included.
        encoder: see :class:`~vqseg_bundle.networks.dinov2_encoder.DINOv2Encoder`, also for the next two.
        encoder_levels: four blocks.
        encoder_sizes: other sizes of the encoder.
        pretrained: start the encoder from DINOv2's weights, read from ``encoder_weights`` or downloaded.
        encoder_weights: the official checkpoint file.
        reassemble_channels: see :class:`~vqseg_bundle.networks.dpt.DPTDecoder`, also for the next one.
        fusion_channels: width of the fused maps.
        num_embeddings: number of codewords, K; None builds the same network without quantisation.
        reconstruction: build the image decoder. A network built without it loads a training network's state dict.
        reconstruction_channels: channels of the image decoder's levels, shallow first, each at twice the resolution of
            the next; its output is resized to the image.
        dropout: dropout rate inside encoder and image decoder.
        quantizer: further arguments of :class:`~vqseg_bundle.layers.VectorQuantizer`.
        activation_checkpointing: saves memory in training at the cost of time.

    Shape:
        - image: ``(B, in_channels, H, W)``, H and W multiples of 14.
        - output: logits ``(B, out_channels, H, W)``.

    Raises:
        ValueError: sizes do not fit each other, ``spatial_dims`` is not 2, or a part refuses an argument.
        FileNotFoundError: ``encoder_weights`` does not exist, or the download failed.

    Examples:
        >>> sizes = {"embed_dim": 32, "depth": 4, "num_heads": 2}
        >>> network = DINOv2DPTNet(2, 1, 4, "dinov2_vits14", range(4), (8, 8, 16, 16), 8, 64, encoder_sizes=sizes)
        >>> network(torch.randn(1, 1, 28, 42)).shape
        torch.Size([1, 4, 28, 42])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        encoder: str,
        encoder_levels: Sequence[int],
        reassemble_channels: Sequence[int],
        fusion_channels: int,
        num_embeddings: int | None = 1024,
        encoder_sizes: Mapping[str, int] | None = None,
        pretrained: bool = False,
        encoder_weights: str | Path | None = None,
        reconstruction: bool = True,
        reconstruction_channels: Sequence[int] = (8, 16, 32, 64),
        dropout: float = 0.0,
        quantizer: Mapping[str, Any] | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        if spatial_dims != 2:
            raise ValueError(f"spatial_dims must be 2: DINOv2 takes images, not volumes, got {spatial_dims}.")
        if len(encoder_levels) != len(reassemble_channels):
            raise ValueError(
                f"encoder_levels must hold as many blocks as reassemble_channels widths, {len(reassemble_channels)}, "
                f"got {len(encoder_levels)}."
            )
        arguments = {
            "spatial_dims": spatial_dims,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "encoder": encoder,
            "encoder_levels": list(encoder_levels),
            "reassemble_channels": list(reassemble_channels),
            "fusion_channels": fusion_channels,
            "num_embeddings": num_embeddings,
            "encoder_sizes": dict(encoder_sizes or {}),
            "reconstruction": reconstruction,
            "reconstruction_channels": list(reconstruction_channels),
            "dropout": dropout,
            "quantizer": dict(quantizer or {}),
        }
        trunk = DINOv2Encoder(
            encoder, encoder_levels, pretrained, encoder_weights, dropout, encoder_sizes, activation_checkpointing
        )
        width = max(1, fusion_channels // _FUSION_CHANNELS_A_UNIT)
        super().__init__(arguments, [_PATCH, _PATCH], trunk.channels, inference_width=width)
        self.encoder = trunk
        if num_embeddings is not None:
            self.quantizer = VectorQuantizer(2, num_embeddings, trunk.channels, **(quantizer or {}))
        self.segmentation_decoder = DPTDecoder(trunk.channels, out_channels, reassemble_channels, fusion_channels)
        if reconstruction:
            levels = len(reconstruction_channels)
            self.reconstruction_decoder = UNetDecoder(
                2,
                trunk.channels,
                in_channels,
                reconstruction_channels,
                [2] * levels,
                [0] * levels,
                dropout=dropout,
                activation_checkpointing=activation_checkpointing,
            )

    def encode(self, image: Tensor) -> Encoding:
        """The deepest level for the quantiser and the three others for the decoder, all on the patch grid."""
        maps = self.encoder(image)
        return Encoding(maps[-1], maps[:-1])

    def decode_segmentation(self, quantized: Tensor, skips: list[Tensor], size: list[int]) -> Tensor:
        """Logits ``(B, out_channels, *size)`` from post-VQ features and the encoder's other levels."""
        logits = self.segmentation_decoder(skips + [quantized])  # noqa: RUF005 TorchScript knows no unpacking
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)

    def decode_image(self, quantized: Tensor, size: list[int]) -> Tensor:
        """Reconstruction ``(B, in_channels, *size)`` from the post-VQ features only.

        Raises:
            ValueError: the network was built without its image decoder.
        """
        if self.reconstruction_decoder is None:
            raise ValueError("this network was built with reconstruction=False and has no image decoder.")
        image = self.reconstruction_decoder(quantized, [])
        return F.interpolate(image, size=size, mode="bilinear", align_corners=False)

    def check_patch_size(self, patch_size: Sequence[int]) -> None:
        """Check that the network can be trained on such patches.

        Args:
            patch_size: one length per axis.

        Raises:
            ValueError: a length is not a multiple of DINOv2's patch size.
        """
        if any(length % _PATCH for length in patch_size):
            nearest = [max(1, round(length / _PATCH)) * _PATCH for length in patch_size]
            raise ValueError(
                f"patch_size must hold multiples of {_PATCH}, the side of DINOv2's patches, got {list(patch_size)}: "
                f"the nearest are {nearest}."
            )
