"""Encoder and decoders of a U-Net, from MONAI's DynUNet blocks; 2D and 3D, any strides, TorchScript-able."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetOutBlock, get_conv_layer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["UNetDecoder", "UNetEncoder"]

_KERNEL_SIZE = 3


class UNetEncoder(nn.Module):
    """Convolution blocks, all strided except the first.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        channels: channels of each level, shallow first.
        strides: ``len(channels) - 1`` strides between the levels, each an int or one int per axis.
        norm: MONAI name (and arguments) of the normalisation.
        dropout: dropout rate inside the blocks.
        activation_checkpointing: keep only the levels' maps for the backward pass, and recompute the rest.

    Shape:
        - input: ``(B, in_channels, *S)``, S divisible by the product of the strides.
        - output: one map per level, shallow first, ``(B, channels[l], *S_l)``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: Sequence[int],
        strides: Sequence[int | Sequence[int]],
        norm: str | tuple = "instance",
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        inputs = [in_channels, *channels[:-1]]
        self.stages = nn.ModuleList(
            UnetBasicBlock(spatial_dims, before, after, _KERNEL_SIZE, stride, norm, dropout=dropout or None)
            for before, after, stride in zip(inputs, channels, [1, *strides], strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps of all levels."""
        maps: list[Tensor] = []
        for stage in self.stages:
            if not torch.jit.is_scripting() and self.activation_checkpointing:
                image = checkpoint(stage, image, use_reentrant=False)
            else:
                image = stage(image)
            maps.append(image)
        return maps


class _UpStage(nn.Module):
    """Transposed convolution, then a convolution block over its output and, optionally, the skip connection."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        stride: int | Sequence[int],
        skip_channels: int,
        norm: str | tuple,
        dropout: float,
    ) -> None:
        super().__init__()
        self.upsample = get_conv_layer(
            spatial_dims, in_channels, out_channels, stride, stride, act=None, norm=None, is_transposed=True
        )
        self.block = UnetBasicBlock(
            spatial_dims, out_channels + skip_channels, out_channels, _KERNEL_SIZE, 1, norm, dropout=dropout or None
        )
        self.has_skip = skip_channels > 0

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        deep = self.upsample(deep)
        if self.has_skip:
            deep = torch.cat((deep, skip), dim=1)
        return self.block(deep)


class UNetDecoder(nn.Module):
    """Decoder back to the image's size, with optional skip connections at each level.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the deepest map.
        out_channels: channels of the output.
        channels: channels of each level above the deepest, shallow first.
        strides: the encoder's.
        skip_channels: channels of the encoder's map at each of those levels, shallow first; 0 for no skip connection.
        norm: MONAI name (and arguments) of the normalisation.
        dropout: dropout rate inside the blocks.
        activation_checkpointing: see :class:`UNetEncoder`.

    Shape:
        - deepest: ``(B, in_channels, *S_L)``.
        - maps: the encoder's maps above the deepest, shallow first; those without a skip connection are not used.
        - output: ``(B, out_channels, *S)``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        strides: Sequence[int | Sequence[int]],
        skip_channels: Sequence[int],
        norm: str | tuple = "instance",
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        inputs = [in_channels, *channels[:0:-1]]
        levels = zip(inputs, channels[::-1], strides[::-1], skip_channels[::-1], strict=True)
        self.stages = nn.ModuleList(
            _UpStage(spatial_dims, before, after, stride, skip, norm, dropout) for before, after, stride, skip in levels
        )
        self.head = UnetOutBlock(spatial_dims, channels[0], out_channels)

    def forward(self, deepest: Tensor, maps: list[Tensor]) -> Tensor:
        """Decode the deepest map."""
        for level, stage in enumerate(self.stages):
            skip = maps[len(self.stages) - 1 - level] if len(maps) > 0 else deepest
            if not torch.jit.is_scripting() and self.activation_checkpointing:
                deepest = checkpoint(stage, deepest, skip, use_reentrant=False)
            else:
                deepest = stage(deepest, skip)
        return self.head(deepest)
