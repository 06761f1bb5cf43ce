"""Sizes, normalisation and source of each foundation model."""

from __future__ import annotations

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from vqseg_bundle.networks.foundation.specification import FoundationSpec

__all__ = ["BIOMEDCLIP", "CLIP", "DINOV2", "DINOV2_REGISTERS", "DINOV3", "MAE", "RAD_DINO", "SAM"]

_META = "https://dl.fbaipublicfiles.com"
_HUB = "https://huggingface.co"
_SAFETENSORS = "model.safetensors"
_BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"


def _dinov2(name: str, backbone: str, channels: int) -> FoundationSpec:
    folder = name.removesuffix("_reg")
    return FoundationSpec(
        name=name,
        backbone=backbone,
        image_size=518,
        patch_size=14,
        channels=channels,
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        source=f"{_META}/dinov2/{folder}/{name.replace('_reg', '_reg4')}_pretrain.pth",
        hub=(f"timm/{backbone}.lvd142m", _SAFETENSORS),
    )


def _dinov3(name: str, backbone: str, channels: int) -> FoundationSpec:
    # The variants with a bias fit every official file; timm also has variants without, for files whose bias is zero.
    repository = f"timm/{backbone}.lvd1689m"
    return FoundationSpec(
        name=name,
        backbone=backbone,
        image_size=256,
        patch_size=16,
        channels=channels,
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        source=f"{_HUB}/{repository}/resolve/main/{_SAFETENSORS}",
        hub=(repository, _SAFETENSORS),
    )


def _clip(name: str, backbone: str, image_size: int, patch_size: int, channels: int) -> FoundationSpec:
    # OpenAI's weights need its approximate GELU; timm's repositories are named without it.
    repository, file = f"timm/{backbone.replace('_quickgelu', '')}.openai", "open_clip_model.safetensors"
    return FoundationSpec(
        name=name,
        backbone=backbone,
        image_size=image_size,
        patch_size=patch_size,
        channels=channels,
        mean=OPENAI_CLIP_MEAN,
        std=OPENAI_CLIP_STD,
        source=f"{_HUB}/{repository}/resolve/main/{file}",
        hub=(repository, file),
    )


def _mae(name: str, backbone: str, patch_size: int, channels: int, file: str) -> FoundationSpec:
    return FoundationSpec(
        name=name,
        backbone=backbone,
        image_size=224,
        patch_size=patch_size,
        channels=channels,
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        source=f"{_META}/mae/pretrain/{file}",
        hub=(f"timm/{backbone}.mae", _SAFETENSORS),
    )


def _sam(name: str, backbone: str, file: str) -> FoundationSpec:
    address = f"{_META}/segment_anything/{file}"
    # SAM's own values, such as 123.675 for 0 to 255, are ImageNet's.
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return FoundationSpec(name, backbone, 1024, 16, 256, mean, std, source=address, url=address)


DINOV2 = [
    _dinov2("dinov2_vits14", "vit_small_patch14_dinov2", 384),
    _dinov2("dinov2_vitb14", "vit_base_patch14_dinov2", 768),
    _dinov2("dinov2_vitl14", "vit_large_patch14_dinov2", 1024),
    _dinov2("dinov2_vitg14", "vit_giant_patch14_dinov2", 1536),
]
DINOV2_REGISTERS = [
    _dinov2("dinov2_vits14_reg", "vit_small_patch14_reg4_dinov2", 384),
    _dinov2("dinov2_vitb14_reg", "vit_base_patch14_reg4_dinov2", 768),
    _dinov2("dinov2_vitl14_reg", "vit_large_patch14_reg4_dinov2", 1024),
    _dinov2("dinov2_vitg14_reg", "vit_giant_patch14_reg4_dinov2", 1536),
]
DINOV3 = [
    _dinov3("dinov3_vits16", "vit_small_patch16_dinov3_qkvb", 384),
    _dinov3("dinov3_vits16plus", "vit_small_plus_patch16_dinov3_qkvb", 384),
    _dinov3("dinov3_vitb16", "vit_base_patch16_dinov3_qkvb", 768),
    _dinov3("dinov3_vitl16", "vit_large_patch16_dinov3_qkvb", 1024),
    _dinov3("dinov3_vith16plus", "vit_huge_plus_patch16_dinov3_qkvb", 1280),
]
CLIP = [
    _clip("clip_vitb32", "vit_base_patch32_clip_quickgelu_224", 224, 32, 768),
    _clip("clip_vitb16", "vit_base_patch16_clip_quickgelu_224", 224, 16, 768),
    _clip("clip_vitl14", "vit_large_patch14_clip_quickgelu_224", 224, 14, 1024),
    _clip("clip_vitl14_336", "vit_large_patch14_clip_quickgelu_336", 336, 14, 1024),
]
MAE = [
    _mae("mae_vitb16", "vit_base_patch16_224", 16, 768, "mae_pretrain_vit_base.pth"),
    _mae("mae_vitl16", "vit_large_patch16_224", 16, 1024, "mae_pretrain_vit_large.pth"),
    _mae("mae_vith14", "vit_huge_patch14_224", 14, 1280, "mae_pretrain_vit_huge.pth"),
]
SAM = [
    _sam("sam_vit_b", "vit_b", "sam_vit_b_01ec64.pth"),
    _sam("sam_vit_l", "vit_l", "sam_vit_l_0b3195.pth"),
    _sam("sam_vit_h", "vit_h", "sam_vit_h_4b8939.pth"),
    FoundationSpec(
        name="medsam_vit_b",
        backbone="vit_b",
        image_size=1024,
        patch_size=16,
        channels=256,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        source="medsam_vit_b.pth as https://github.com/bowang-lab/MedSAM says",
    ),
]
RAD_DINO = FoundationSpec(
    name="rad_dino",
    backbone="vit_base_patch14_dinov2",
    image_size=518,
    patch_size=14,
    channels=768,
    mean=(0.5307, 0.5307, 0.5307),
    std=(0.2583, 0.2583, 0.2583),
    source=f"{_HUB}/microsoft/rad-dino/resolve/main/{_SAFETENSORS}",
    hub=("microsoft/rad-dino", _SAFETENSORS),
)
BIOMEDCLIP = FoundationSpec(
    name="biomedclip",
    backbone="vit_base_patch16_224",
    image_size=224,
    patch_size=16,
    channels=768,
    mean=OPENAI_CLIP_MEAN,
    std=OPENAI_CLIP_STD,
    source=f"{_HUB}/{_BIOMEDCLIP}/resolve/main/open_clip_pytorch_model.bin",
    hub=(_BIOMEDCLIP, "open_clip_pytorch_model.bin"),
)
