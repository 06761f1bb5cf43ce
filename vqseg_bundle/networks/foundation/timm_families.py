"""The families of foundation models that use timm: the names in their files, and how they resize positions."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from timm.models import eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vqseg_bundle.networks.foundation.timm_model import TimmFoundationModel

__all__ = [
    "BiomedCLIPFoundationModel",
    "CLIPFoundationModel",
    "DINOv2FoundationModel",
    "DINOv2RegistersFoundationModel",
    "DINOv3FoundationModel",
    "MAEFoundationModel",
    "RadDINOFoundationModel",
    "resize_dinov2_positions",
]

# Names in transformers' Dinov2Model, and the official DINOv2's, which timm uses.
_TRANSFORMERS_NAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
_QUERY = re.compile(r"attention\.attention\.query\.(weight|bias)$")


def resize_dinov2_positions(positions: Tensor, height: int, width: int) -> Tensor:
    """Resize positions ``(1, channels, side, side)`` to ``(1, channels, height, width)`` as DINOv2's own code does.

    Bicubic, not antialiased, with the scale factors from the official 0.1 offset of the grid size. Scriptable.
    """
    factors = [(height + 0.1) / positions.shape[-2], (width + 0.1) / positions.shape[-1]]
    return F.interpolate(positions, scale_factor=factors, mode="bicubic")


class DINOv2FoundationModel(TimmFoundationModel):
    """DINOv2 (Oquab et al., 2024, https://arxiv.org/abs/2304.07193) without registers.

    Positions are resized as in the official ``interpolate_pos_encoding``; timm's own antialiased resizing changes the
    features by about 3 % at 126 pixels.
    """

    @staticmethod
    def convert_names(state: Mapping[str, Tensor], vit: VisionTransformer) -> dict[str, Tensor]:
        """timm's conversion."""
        # timm converts DINOv2's names only if it sees this key, which some copies of the official files drop.
        return TimmFoundationModel.convert_names({"mask_token": torch.empty(0), **state}, vit)

    @staticmethod
    def resize_positions(positions: Tensor, grid: int) -> Tensor:
        """:func:`resize_dinov2_positions` to a square."""
        return resize_dinov2_positions(positions, grid, grid)


class DINOv2RegistersFoundationModel(DINOv2FoundationModel):
    """DINOv2 with registers (Darcet et al., 2024, https://arxiv.org/abs/2309.16588).

    Its official configuration resizes positions with antialiasing and without offset.
    """

    resize_positions = staticmethod(TimmFoundationModel.resize_positions)


class DINOv3FoundationModel(TimmFoundationModel):
    """DINOv3 (Siméoni et al., 2025, https://arxiv.org/abs/2508.10104).

    Its rotary positions adapt to the grid: nothing is resized.
    """

    @staticmethod
    def convert_names(state: Mapping[str, Tensor], vit: VisionTransformer) -> dict[str, Tensor]:
        """timm's conversion."""
        return eva.checkpoint_filter_fn(dict(state), vit)


class CLIPFoundationModel(TimmFoundationModel):
    """The image tower of OpenAI's CLIP (Radford et al., 2021, https://arxiv.org/abs/2103.00020).

    Files have open_clip's names and the whole model, or are timm's copies. The patch tokens are those after the layer
    norm that CLIP applies to its class token, as open_clip returns them with ``output_tokens``; positions are resized
    as in open_clip.
    """

    @staticmethod
    def convert_names(state: Mapping[str, Tensor], vit: VisionTransformer) -> dict[str, Tensor]:
        """timm's conversion, without the projection of the class token."""
        converted = TimmFoundationModel.convert_names(state, vit)
        return {name: value for name, value in converted.items() if not name.startswith("head.")}


class BiomedCLIPFoundationModel(TimmFoundationModel):
    """The image tower of BiomedCLIP (Zhang et al., 2023, https://arxiv.org/abs/2303.00915), which is a model of timm.
    Files are those of open_clip, of the whole model.
    """

    @staticmethod
    def convert_names(state: Mapping[str, Tensor], vit: VisionTransformer) -> dict[str, Tensor]:
        """The image tower's tensors, without open_clip's prefix."""
        prefix = "visual.trunk."
        trunk = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if not trunk:
            raise KeyError(f"{prefix}*")
        return trunk


class MAEFoundationModel(TimmFoundationModel):
    """The encoder of a masked autoencoder (He et al., 2022, https://arxiv.org/abs/2111.06377), on all patches.

    Positions are resized as in the official ``interpolate_pos_embed``.
    """

    @staticmethod
    def convert_names(state: Mapping[str, Tensor], vit: VisionTransformer) -> dict[str, Tensor]:
        """The file's own names, which are timm's."""
        return dict(state)

    @staticmethod
    def resize_positions(positions: Tensor, grid: int) -> Tensor:
        """Bicubic, not antialiased."""
        return F.interpolate(positions, size=(grid, grid), mode="bicubic")


class RadDINOFoundationModel(TimmFoundationModel):
    """Rad-DINO (Pérez-García et al., 2025, https://arxiv.org/abs/2401.10815), a DINOv2 ViT-B/14 of chest radiographs.

    Files are those of transformers' ``Dinov2Model``; positions are resized as in transformers.
    """

    resize_positions = staticmethod(MAEFoundationModel.resize_positions)

    @staticmethod
    def convert_names(state: Mapping[str, Tensor], vit: VisionTransformer) -> dict[str, Tensor]:
        """Convert transformers' names to timm's, joining each block's query, key and value."""
        if "embeddings.cls_token" not in state:
            raise KeyError("embeddings.cls_token")
        converted: dict[str, Tensor] = {}
        for name, value in state.items():
            if query := _QUERY.search(name):
                parts = [value, *(state[name.replace(".query.", f".{part}.")] for part in ("key", "value"))]
                name, value = f"{name[: query.start()]}attn.qkv.{query[1]}", torch.cat(parts)
            elif re.search(r"\.attention\.attention\.(key|value)\.|^embeddings\.mask_token$", name):
                continue
            for pattern, replacement in _TRANSFORMERS_NAMES:
                name = re.sub(pattern, replacement, name)
            converted[name] = value
        return converted
