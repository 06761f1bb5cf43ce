"""DINOv2 as a trainable encoder: from grey or colour images to the patch features of some of its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vqseg_bundle.networks.foundation.catalog import DINOV2
from vqseg_bundle.networks.foundation.model import scale_to_unit
from vqseg_bundle.networks.foundation.timm_families import DINOv2FoundationModel, resize_dinov2_positions
from vqseg_bundle.networks.foundation.weights import ENCODER_KEY

__all__ = ["DINOv2Encoder"]

_SPECS = {spec.name: spec for spec in DINOV2}


class DINOv2Encoder(nn.Module):
    """Patch features of some blocks of a DINOv2 (Oquab et al., 2024, https://arxiv.org/abs/2304.07193).

    Images are scaled as in :class:`~vqseg_bundle.networks.FoundationModel`: min-max to [0, 1], grey as three equal
    channels, then ImageNet's mean and standard deviation. Positions are resized to each input's patch grid as in
    DINOv2's code. The final layer norm is applied to each level, and the class token is dropped.

    Args:
        name: "dinov2_vits14", "dinov2_vitb14", "dinov2_vitl14" or "dinov2_vitg14".
        levels: blocks whose output is returned, counted from 0, increasing; the last must be the last block.
        pretrained: start from DINOv2's weights, read from ``weights`` or downloaded; otherwise from random ones.
        weights: the official checkpoint file; None downloads it.
        dropout: dropout rate after attention and in the MLPs.
        sizes: other ``embed_dim``, ``depth``, ``num_heads`` for timm's model, such as small ones for tests.
        activation_checkpointing: keep only the tokens between blocks for the backward pass, and recompute the rest.

    Attributes:
        patch_size: 14.
        channels: width of the tokens.

    Shape:
        - image: ``(B, C, H, W)``; two channels or more than three are averaged to grey. H and W multiples of 14.
        - output: one map per level, ``(B, channels, H / 14, W / 14)``.

    Raises:
        ValueError: an unknown name, levels that the model does not have, an input of another size, or ``weights`` is
            not a checkpoint of this model.
        FileNotFoundError: ``weights`` does not exist, or the download failed.
    """

    def __init__(
        self,
        name: str,
        levels: Sequence[int],
        pretrained: bool = False,
        weights: str | Path | None = None,
        dropout: float = 0.0,
        sizes: Mapping[str, int] | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if name not in _SPECS:
            raise ValueError(f"encoder must be one of {', '.join(_SPECS)}, got {name!r}.")
        spec = _SPECS[name]
        other: dict[str, Any] = dict(sizes or {})
        vit = cast(
            VisionTransformer,
            timm.create_model(spec.backbone, pretrained=False, num_classes=0, proj_drop_rate=dropout, **other),
        )
        _check_levels(levels, len(vit.blocks))
        if pretrained:
            DINOv2FoundationModel.load_weights(vit, spec, weights, key=ENCODER_KEY)
        self.levels = list(levels)
        self.patch_size = spec.patch_size
        self.channels = vit.embed_dim
        self.activation_checkpointing = activation_checkpointing
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.cls_token = cast(nn.Parameter, vit.cls_token)
        self.pos_embed = cast(nn.Parameter, vit.pos_embed)
        self.patch_embed = vit.patch_embed.proj
        self.blocks = vit.blocks
        self.norm = vit.norm

    def forward(self, image: Tensor) -> list[Tensor]:
        """Patch features of the levels."""
        if image.shape[2] % self.patch_size != 0 or image.shape[3] % self.patch_size != 0:
            raise ValueError(
                f"DINOv2 takes images of multiples of {self.patch_size} pixels, got "
                f"{image.shape[2]} x {image.shape[3]}: choose such a patch_size."
            )
        patches = self.patch_embed((scale_to_unit(image.float()) - self.mean) / self.std)  # (B, channels, h, w)
        height, width = patches.shape[2], patches.shape[3]
        tokens = torch.cat((self.cls_token.expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)), dim=1)
        tokens = tokens + self._positions(height, width)  # (B, 1 + h * w, channels)
        maps: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            if not torch.jit.is_scripting() and self.activation_checkpointing:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
            if index in self.levels:
                maps.append(self.norm(tokens)[:, 1:].transpose(1, 2).reshape(len(patches), -1, height, width))
        return maps

    def _positions(self, height: int, width: int) -> Tensor:
        """Position embedding ``(1, 1 + height * width, channels)``."""
        count = self.pos_embed.shape[1] - 1
        side = int(count**0.5)
        if height == side and width == side:
            return self.pos_embed
        patches = self.pos_embed[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
        patches = resize_dinov2_positions(patches, height, width).flatten(2).transpose(1, 2)
        return torch.cat((self.pos_embed[:, :1], patches), dim=1)


def _check_levels(levels: Sequence[int], depth: int) -> None:
    if not levels or levels[0] < 0 or levels[-1] != depth - 1 or any(b <= a for a, b in pairwise(levels)):
        raise ValueError(
            f"encoder_levels must be increasing block numbers from 0 to {depth - 1}, the last block, among them, "
            f"got {list(levels)}."
        )
