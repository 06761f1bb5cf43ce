"""The VQ-Seg network: encoder, quantised features, segmentation decoder and image decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from vqseg_bundle.layers import VectorQuantizer, replace_instance_norms
from vqseg_bundle.networks.quantized_stage import QuantizedStage
from vqseg_bundle.networks.unet import UNetDecoder, UNetEncoder
from vqseg_bundle.networks.vq_network import Encoding, VQNetwork

__all__ = ["VQSegNet"]

SkipConnection = bool | str
_QUANTIZED = "quantized"


class VQSegNet(VQNetwork):
    """U-Net with one vector-quantised feature map, and two decoders in the post-VQ space.

    The map is the bottleneck or, with ``code_level``, that of a level above it: the U-Net's decoder from the bottleneck
    up to that level, skip connections included, makes one map of all deeper ones, which is quantised. Only the skip
    connections above the codes pass them by. These see a few pixels around each one, so that what a region is must
    come from the codes, and where exactly it ends may come from the skip connections.

    ``forward`` is the deployed path (encoder, quantiser, segmentation decoder); it returns only the logits. The image
    decoder sees only the post-VQ features and is used only in training. Inputs of any size are padded at their far ends
    to the next multiple of the strides' product, and the logits are cropped back.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes, background included.
        channels: encoder channels of each level, shallow first.
        strides: ``len(channels) - 1`` strides between the levels, each an int or one int per axis.
        num_embeddings: number of codewords, K; None builds the same U-Net without quantisation (the supervised
            baseline).
        embedding_dim: width of a codeword, D.
        skip_connections: whether the segmentation decoder sees the encoder's maps: True, False or "quantized" (through
            a quantiser of that level's own, :class:`~vqseg_bundle.networks.QuantizedStage`); one for all levels above
            the codes, or one per level, shallow first.
        reconstruction: build the image decoder. A network built without it loads a training network's state dict.
        reconstruction_channels: channels of the image decoder's levels, one per level above the codes, shallow first;
            None takes the encoder's.
        norm: MONAI name (and arguments) of the normalisation.
        dropout: dropout rate inside encoder and decoders (MONAI Label's epistemic scoring sets it).
        quantizer: further arguments of :class:`~vqseg_bundle.layers.VectorQuantizer`.
        activation_checkpointing: save memory in training: keep only the levels' maps for the backward pass and
            recompute the rest, for the same numbers in about a third more time.
        code_level: level whose map is quantised, at the product of the first ``code_level`` strides; None is the
            deepest. Not read without quantiser: the plain U-Net has no such place.
        quantized_bottleneck: with codes above the deepest level, also quantise the deepest map, by a codebook of its
            own (two levels of codes, as in VQ-VAE-2, https://arxiv.org/abs/1906.00446); else not read.

    Attributes:
        arguments: the arguments that its weights depend on, for the record beside them.

    Shape:
        - image: ``(B, in_channels, *S)``.
        - output: logits ``(B, out_channels, *S)``.

    Raises:
        ValueError: sizes do not fit each other, or the quantiser refuses an argument.

    Examples:
        >>> network = VQSegNet(2, 1, 4, channels=(8, 16, 32), strides=(2, 2), num_embeddings=64, embedding_dim=16)
        >>> network(torch.randn(1, 1, 30, 33)).shape
        torch.Size([1, 4, 30, 33])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        strides: Sequence[int | Sequence[int]],
        num_embeddings: int | None = 1024,
        embedding_dim: int = 64,
        skip_connections: SkipConnection | Sequence[SkipConnection] = True,
        reconstruction: bool = True,
        reconstruction_channels: Sequence[int] | None = None,
        norm: str | tuple = "instance",
        dropout: float = 0.0,
        quantizer: Mapping[str, Any] | None = None,
        activation_checkpointing: bool = False,
        code_level: int | None = None,
        quantized_bottleneck: bool = False,
    ) -> None:
        arguments = {
            "spatial_dims": spatial_dims,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "channels": list(channels),
            "strides": list(strides),
            "num_embeddings": num_embeddings,
            "embedding_dim": embedding_dim,
            "skip_connections": skip_connections,
            "reconstruction": reconstruction,
            "reconstruction_channels": reconstruction_channels,
            "norm": norm,
            "dropout": dropout,
            "quantizer": dict(quantizer or {}),
        }
        level = _checked_level(channels, strides, None if num_embeddings is None else code_level)
        if level < len(strides):
            # left out where it changes nothing, as in the records of early versions
            arguments |= {"code_level": level, "quantized_bottleneck": quantized_bottleneck}
        skips = _checked_skips(level, skip_connections, num_embeddings is not None)
        width = channels[level] if num_embeddings is None else embedding_dim
        super().__init__(arguments, _total_stride(spatial_dims, strides[:level]), width, channels[0])
        self.code_level = level
        self.deepest_stride = _total_stride(spatial_dims, strides)
        # PyTorch has no quick group norm for this layout
        self.channels_last = "group" not in str(norm).lower()
        if activation_checkpointing and "batch" in str(norm).lower():
            raise ValueError(
                f"activation_checkpointing must be off with norm {norm!r}: computing a block again would update its "
                "running statistics twice. Use instance or group norm."
            )
        blocks = (norm, dropout, activation_checkpointing)
        self.encoder = UNetEncoder(spatial_dims, in_channels, channels, strides, *blocks)
        self.fusion: nn.Module | None = None
        self.code_projection: nn.Module = nn.Identity()
        self.code_expansion: nn.Module = nn.Identity()
        if num_embeddings is not None:
            convolution = Conv[Conv.CONV, spatial_dims]
            if level < len(strides):
                above = channels[level:-1]
                if quantized_bottleneck:
                    self.bottleneck_stage = QuantizedStage(
                        spatial_dims, channels[-1], num_embeddings, embedding_dim, quantizer
                    )
                self.fusion = UNetDecoder(
                    spatial_dims, channels[-1], embedding_dim, above, strides[level:], above, *blocks
                )
            else:
                self.code_projection = convolution(channels[-1], embedding_dim, kernel_size=1)
            self.code_expansion = convolution(embedding_dim, channels[level], kernel_size=1)
            self.quantizer = VectorQuantizer(spatial_dims, num_embeddings, embedding_dim, **(quantizer or {}))
            if _QUANTIZED in skips:
                self.skip_stages = nn.ModuleList(
                    QuantizedStage(spatial_dims, width, num_embeddings, embedding_dim, quantizer)
                    if skip == _QUANTIZED
                    else nn.Identity()
                    for width, skip in zip(channels[:level], skips, strict=True)
                )
        widths = list(channels[:level])
        skip_widths = [width if skip else 0 for width, skip in zip(widths, skips, strict=True)]
        self.segmentation_decoder = UNetDecoder(
            spatial_dims, channels[level], out_channels, widths, strides[:level], skip_widths, *blocks
        )
        if reconstruction:
            widths = list(reconstruction_channels or widths)
            if len(widths) != level:
                raise ValueError(
                    f"reconstruction_channels must hold {level} widths, one per level above the codes, "
                    f"got {len(widths)}."
                )
            self.reconstruction_decoder = UNetDecoder(
                spatial_dims, channels[level], in_channels, widths, strides[:level], [0] * level, *blocks
            )
        replace_instance_norms(self)

    def encode(self, image: Tensor) -> Encoding:
        """Features for the quantiser and the skip connections' maps."""
        maps = self.encode_maps(image)
        if self.bottleneck_stage is not None:
            maps[-1] = self.bottleneck_stage(maps[-1])
        return self.fuse(maps)

    def encode_maps(self, image: Tensor) -> list[Tensor]:
        """The encoder's maps, shallow first."""
        return self.encoder(self._lay_out(self._pad(image)))

    def fuse(self, maps: list[Tensor]) -> Encoding:
        """Features for the quantiser, and the skip connections' maps, from the encoder's."""
        if self.fusion is not None:
            return Encoding(self.fusion(self._lay_out(maps[-1]), maps[self.code_level : -1]), maps[: self.code_level])
        return Encoding(self.code_projection(maps[-1]), maps[:-1])

    def decode_segmentation(self, quantized: Tensor, skips: list[Tensor], size: list[int]) -> Tensor:
        """Logits ``(B, out_channels, *size)`` from post-VQ features and the encoder's maps."""
        return _crop(self.segmentation_decoder(self._expand(quantized), skips), size)

    def decode_image(self, quantized: Tensor, size: list[int]) -> Tensor:
        """Reconstruction ``(B, in_channels, *size)`` from the post-VQ features only.

        Raises:
            ValueError: the network was built without its image decoder.
        """
        if self.reconstruction_decoder is None:
            raise ValueError("this network was built with reconstruction=False and has no image decoder.")
        return _crop(self.reconstruction_decoder(self._expand(quantized), []), size)

    def check_patch_size(self, patch_size: Sequence[int]) -> None:
        """Check that the network can be trained on such patches.

        Args:
            patch_size: one length per axis.

        Raises:
            ValueError: the bottleneck would be a single pixel, which instance norm cannot normalise.
        """
        if all(length <= step for length, step in zip(patch_size, self.deepest_stride, strict=True)):
            raise ValueError(
                f"patch_size {list(patch_size)} is a single token at the network's total stride {self.deepest_stride}: "
                "give a larger patch_size, or fewer or smaller network_def#strides."
            )

    def _pad(self, image: Tensor) -> Tensor:
        pads: list[int] = []
        for axis, stride in enumerate(self.deepest_stride):
            pads = [0, (stride - image.shape[2 + axis] % stride) % stride] + pads  # noqa: RUF005 TorchScript knows no unpacking
        return F.pad(image, pads, mode="replicate") if max(pads) > 0 else image

    def _expand(self, quantized: Tensor) -> Tensor:
        return self._lay_out(self.code_expansion(quantized))

    def _lay_out(self, maps: Tensor) -> Tensor:
        """Channels last on a CPU, where convolutions are fastest so; what is made from them mostly keeps the layout."""
        if not self.channels_last or maps.device.type != "cpu":
            return maps
        layout = torch.channels_last if maps.dim() == 4 else torch.channels_last_3d
        # a single channel is in every layout at once, and made from it would be the other
        return maps.clone(memory_format=layout) if maps.shape[1] == 1 else maps.contiguous(memory_format=layout)


def _crop(maps: Tensor, size: list[int]) -> Tensor:
    for axis, length in enumerate(size):
        maps = maps.narrow(2 + axis, 0, length)
    return maps


def _checked_level(channels: Sequence[int], strides: Sequence[int | Sequence[int]], code_level: int | None) -> int:
    """The level of the codes, which is the number of levels above them."""
    levels = len(channels) - 1
    if levels < 1 or len(strides) != levels:
        raise ValueError(
            f"strides must hold one entry between each two levels: {len(channels)} channels want {levels} strides, "
            f"got {len(strides)}."
        )
    if code_level is None:
        return levels
    if isinstance(code_level, bool) or not 1 <= code_level <= levels:
        raise ValueError(
            f"code_level must be None (the deepest level) or lie between 1 and {levels} with {len(channels)} channels, "
            f"got {code_level!r}."
        )
    return code_level


def _checked_skips(
    levels: int, skip_connections: SkipConnection | Sequence[SkipConnection], has_codes: bool
) -> list[SkipConnection]:
    """The skip connection of each level above the codes."""
    wanted = [skip_connections] * levels if isinstance(skip_connections, bool | str) else list(skip_connections)
    if len(wanted) != levels:
        raise ValueError(
            f'skip_connections must be one of True, False and "{_QUANTIZED}", or {levels} of them, got {len(wanted)}.'
        )
    odd = [skip for skip in wanted if not isinstance(skip, bool) and skip != _QUANTIZED]
    if odd:
        raise ValueError(f'each of skip_connections must be True, False or "{_QUANTIZED}", got {odd[0]!r}.')
    if _QUANTIZED in wanted and not has_codes:
        raise ValueError(
            f'skip_connections must not be "{_QUANTIZED}" in a network without quantiser (num_embeddings None).'
        )
    return wanted


def _total_stride(spatial_dims: int, strides: Sequence[int | Sequence[int]]) -> list[int]:
    total = [1] * spatial_dims
    for stride in strides:
        axes = [stride] * spatial_dims if isinstance(stride, int) else list(stride)
        if len(axes) != spatial_dims:
            raise ValueError(f"each of strides must be one int or {spatial_dims} ints, got {stride}.")
        total = [product * factor for product, factor in zip(total, axes, strict=True)]
    return total
