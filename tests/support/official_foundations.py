"""Foundation models as the packages of their authors and users build them, in every size, under their files' names."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from segment_anything import sam_model_registry
from timm.models import load_state_dict
from torch import Tensor

from support.foundation_parts import image, normalized, randomize, relative_difference, saved
from vqseg_bundle.networks.foundation import FOUNDATION_SPECS, build_foundation_model

__all__ = ["OFFICIAL_MODELS", "largest_difference"]

#: patterns of transformers' names, and what the official files have in their place
_DINOV2_NAMES = {
    r"^embeddings\.(cls_token|mask_token|register_tokens)$": r"\1",
    r"^embeddings\.position_embeddings$": "pos_embed",
    r"^embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"^encoder\.layer\.(\d+)\.": r"blocks.\1.",
    r"\.attention\.attention\.(query|key|value)\.": r".attn.\1.",
    r"\.attention\.output\.dense\.": ".attn.proj.",
    r"\.layer_scale([12])\.lambda1$": r".ls\1.gamma",
    r"\.mlp\.weights_in\.": ".mlp.w12.",
    r"\.mlp\.weights_out\.": ".mlp.w3.",
    r"^layernorm\.": "norm.",
}
_MAE_NAMES = _DINOV2_NAMES | {
    r"\.intermediate\.dense\.": ".mlp.fc1.",
    r"(blocks\.\d+)\.output\.dense\.": r"\1.mlp.fc2.",
    r"\.layernorm_before\.": ".norm1.",
    r"\.layernorm_after\.": ".norm2.",
}
_DINOV3_NAMES = {
    r"^embeddings\.(cls_token|mask_token)$": r"\1",
    r"^embeddings\.register_tokens$": "storage_tokens",
    r"^embeddings\.patch_embeddings\.": "patch_embed.proj.",
    r"^layer\.(\d+)\.": r"blocks.\1.",
    r"\.attention\.q_proj\.": ".attn.query.",
    r"\.attention\.k_proj\.": ".attn.key.",
    r"\.attention\.v_proj\.": ".attn.value.",
    r"\.attention\.o_proj\.": ".attn.proj.",
    r"\.layer_scale([12])\.lambda1$": r".ls\1.gamma",
}
_DINOV3_MLP = {r"\.mlp\.up_proj\.": ".mlp.fc1.", r"\.mlp\.down_proj\.": ".mlp.fc2."}
_DINOV3_GATED = {
    r"\.mlp\.gate_proj\.": ".mlp.w1.",
    r"\.mlp\.up_proj\.": ".mlp.w2.",
    r"\.mlp\.down_proj\.": ".mlp.w3.",
}


class Official(NamedTuple):
    """A model with random weights.

    Attributes:
        features: patch features ``(1, channels, h, w)`` of a normalised image.
        state: its tensors under the names of the authors' files.
    """

    features: Callable[[Tensor], Tensor]
    state: Mapping[str, Any]


def largest_difference(name: str, folder: Path) -> float:
    """Between our features and the official ones of one image at the native size, in units of the largest."""
    pixels = image(FOUNDATION_SPECS[name].image_size)
    official = OFFICIAL_MODELS[name]()
    with torch.no_grad():
        expected = official.features(normalized(pixels, name))
    with saved(official.state, folder / f"{name}.pth") as path:
        del official  # the largest would not fit twice
        return relative_difference(build_foundation_model(name, path)(pixels), expected)


def _dinov2(width: int, depth: int, heads: int, registers: bool) -> Official:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sort = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(transformers, f"{sort}Config")(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        use_swiglu_ffn=width == 1536,
        image_size=518,
        patch_size=14,
        layer_norm_eps=1e-6,
    )
    model = randomize(getattr(transformers, f"{sort}Model")(config))
    state = _official_names(model, _DINOV2_NAMES)
    return Official(lambda pixels: _as_map(model(pixels).last_hidden_state[:, 5 if registers else 1 :]), state)


def _dinov3(width: int, depth: int, heads: int, hidden: int, gated: bool = False) -> Official:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.DINOv3ViTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=hidden,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
        num_register_tokens=4,
    )
    model = randomize(transformers.DINOv3ViTModel(config))
    state = _official_names(model, _DINOV3_NAMES | (_DINOV3_GATED if gated else _DINOV3_MLP))
    masks = {f"{name}_mask": torch.ones_like(state[name]) for name in state if name.endswith("attn.qkv.bias")}
    state |= {"rope_embed.periods": torch.ones(16), **masks}
    return Official(lambda pixels: _as_map(model(pixels).last_hidden_state[:, 5:]), state)


def _mae(width: int, depth: int, heads: int, patch: int) -> Official:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ViTMAEConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        patch_size=patch,
        layer_norm_eps=1e-6,
        mask_ratio=0.0,
    )
    model = randomize(transformers.ViTMAEModel(config))
    in_order = torch.arange((224 // patch) ** 2).float()[None]  # the "random" order of the patches
    state = {"model": _official_names(model, _MAE_NAMES)}
    return Official(lambda pixels: _as_map(model(pixels, noise=in_order).last_hidden_state[:, 1:]), state)


def _clip(architecture: str) -> Official:
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")
    clip = open_clip.create_model(f"{architecture}-quickgelu", pretrained=None)
    tower = randomize(clip.visual)
    tower.output_tokens = True
    return Official(lambda pixels: _as_map(tower(pixels)[1]), clip.state_dict())


def _sam(size: str) -> Official:
    model = sam_model_registry[size]()
    return Official(randomize(model.image_encoder), model.state_dict())


OFFICIAL_MODELS: dict[str, Callable[[], Official]] = {
    **{
        f"dinov2_vit{size}14{suffix}": partial(_dinov2, *sizes, registers=bool(suffix))
        for suffix in ("", "_reg")
        for size, sizes in {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "g": (1536, 40, 24)}.items()
    },
    "dinov3_vits16": partial(_dinov3, 384, 12, 6, 1536),
    "dinov3_vits16plus": partial(_dinov3, 384, 12, 6, 1536, gated=True),
    "dinov3_vitb16": partial(_dinov3, 768, 12, 12, 3072),
    "dinov3_vitl16": partial(_dinov3, 1024, 24, 16, 4096),
    "dinov3_vith16plus": partial(_dinov3, 1280, 32, 20, 5120, gated=True),
    "mae_vitb16": partial(_mae, 768, 12, 12, 16),
    "mae_vitl16": partial(_mae, 1024, 24, 16, 16),
    "mae_vith14": partial(_mae, 1280, 32, 16, 14),
    "clip_vitb32": partial(_clip, "ViT-B-32"),
    "clip_vitb16": partial(_clip, "ViT-B-16"),
    "clip_vitl14": partial(_clip, "ViT-L-14"),
    "clip_vitl14_336": partial(_clip, "ViT-L-14-336"),
    "sam_vit_b": partial(_sam, "vit_b"),
    "sam_vit_l": partial(_sam, "vit_l"),
    "sam_vit_h": partial(_sam, "vit_h"),
    "medsam_vit_b": partial(_sam, "vit_b"),
}


def _as_map(tokens: Tensor) -> Tensor:
    """``(1, h * w, channels)`` as ``(1, channels, h, w)`` on a square."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def _official_names(model: Any, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of one of transformers' models as its authors' file has them: query, key and value are one."""
    with tempfile.TemporaryDirectory() as folder:  # names in files are the old ones, whatever the version calls them
        model.save_pretrained(folder, max_shard_size="20GB")
        layout = load_state_dict(f"{folder}/model.safetensors")
    state: dict[str, Tensor] = {}
    for name, value in layout.items():
        for pattern, replacement in names.items():
            name = re.sub(pattern, replacement, name)
        state[name] = value
    for name in [name for name in state if ".query." in name]:
        query, key, value = (state.pop(name.replace("query", part), None) for part in ("query", "key", "value"))
        key = torch.zeros_like(query) if key is None else key  # DINOv3 has no bias of the keys
        state[name.replace("query", "qkv")] = torch.cat([query, key, value])
    return state
