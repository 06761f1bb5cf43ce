"""Foundation models against the packages that they are from: same weights, same image, same features."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from support.foundation_parts import DINOV2, as_tokens, image, normalized, randomize, relative_difference, saved
from timm.data import IMAGENET_DEFAULT_MEAN, OPENAI_CLIP_MEAN

from vqseg_bundle.networks.foundation import (
    FOUNDATION_SPECS,
    DINOv2FoundationModel,
    FoundationModel,
    RadDINOFoundationModel,
    build_foundation_model,
)

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def dinov2_file(tmp_path_factory) -> Iterator[str]:
    """A random DINOv2 ViT-S/14 under the official names."""
    state = randomize(timm.create_model("vit_small_patch14_dinov2", num_classes=0)).state_dict()
    with saved({"mask_token": torch.zeros(1, 384), **state}, tmp_path_factory.mktemp("weights") / "s.pth") as path:
        yield path


@pytest.fixture(scope="module")
def dinov2(dinov2_file) -> FoundationModel:
    return build_foundation_model("dinov2_vits14", dinov2_file, image_size=126)


def test_dinov2_shapes(dinov2):
    assert (dinov2.channels, dinov2.image_size, dinov2.grid) == (384, 126, (9, 9))
    assert dinov2(torch.rand(2, 1, 40, 60)).shape == (2, 384, 9, 9)
    assert dinov2(torch.rand(1, 1, 40, 60, 6), depth=2).shape == (1, 384, 9, 9, 2)


def test_patches_lie_in_row_major_order(dinov2):
    images = torch.randn(1, 3, 126, 126, generator=torch.Generator().manual_seed(3))
    tokens = dinov2.backbone.forward_features(images)[0, 1:]  # the class token comes first
    features = dinov2.extract_features(images)[0]
    torch.testing.assert_close(features[:, 2, 5], tokens[2 * 9 + 5])


def test_dinov2_resizes_positions_the_official_way(dinov2, dinov2_file):
    state = torch.load(dinov2_file, weights_only=True)
    torch.testing.assert_close(dinov2.backbone.blocks[11].mlp.fc2.weight.data, state["blocks.11.mlp.fc2.weight"])
    grid = state["pos_embed"][:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, scale_factor=(9.1 / 37, 9.1 / 37), mode="bicubic", antialias=False)
    expected = torch.cat([state["pos_embed"][:, :1], resized.permute(0, 2, 3, 1).reshape(1, 81, 384)], dim=1)
    torch.testing.assert_close(dinov2.backbone.pos_embed.data, expected)


def test_without_an_image_size_the_native_one_is_used_and_positions_stay(dinov2_file):
    model = build_foundation_model("dinov2_vits14", dinov2_file)
    assert (model.image_size, model.grid) == (518, (37, 37))
    stored = torch.load(dinov2_file, weights_only=True)["pos_embed"]
    torch.testing.assert_close(model.backbone.pos_embed.data, stored, rtol=0, atol=0)


@pytest.mark.parametrize(("registers", "sizes"), [(False, [518]), (True, [518, 126])])
def test_dinov2_gives_the_features_of_transformers(tmp_path, registers, sizes):
    # without registers transformers leaves out the official offset, so only the native size can be compared
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sort = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(transformers, f"{sort}Config")(
        hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14, layer_norm_eps=1e-6
    )
    official = randomize(getattr(transformers, f"{sort}Model")(config))
    official.save_pretrained(tmp_path)
    layout = timm.models.load_state_dict(str(tmp_path / "model.safetensors"))
    (tmp_path / "model.safetensors").unlink()
    state = RadDINOFoundationModel.convert_names(layout, None)
    if registers:
        state["register_tokens"] = state.pop("embeddings.register_tokens")
    name = "dinov2_vits14_reg" if registers else "dinov2_vits14"
    with saved({"mask_token": torch.zeros(1, 384), **state}, tmp_path / "dinov2.pth") as path:
        for size in sizes:
            pixels = image(size)
            with torch.no_grad():
                tokens = official(normalized(pixels, name)).last_hidden_state[:, 5 if registers else 1 :]
            features = build_foundation_model(name, path, size)(pixels)
            assert relative_difference(as_tokens(features), tokens) < TOLERANCE


def test_the_largest_dinov2_under_its_official_names():
    with torch.device("meta"):
        vit = timm.create_model("vit_giant_patch14_reg4_dinov2", num_classes=0)
        state = vit.state_dict()
        official = {key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): state[key] for key in state}
        official["register_tokens"] = official.pop("reg_token")
        official["pos_embed"] = torch.empty(1, 1370, 1536)
        converted = DINOv2FoundationModel.convert_names(official, vit)
    assert {key: value.shape for key, value in converted.items()} == {key: state[key].shape for key in state}


@pytest.mark.parametrize(("size", "names"), [(256, "timm"), (224, "official")])
def test_dinov3_gives_the_features_of_timm(tmp_path, size, names):
    vit = randomize(timm.create_model("vit_small_patch16_dinov3_qkvb", num_classes=0))
    state = vit.state_dict()
    official = {"mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16)}
    for name, value in state.items():
        if name.endswith("q_bias"):
            block = name.removesuffix("q_bias")
            joined = torch.cat([value, torch.zeros_like(value), state[f"{block}v_bias"]])
            official |= {f"{block}qkv.bias": joined, f"{block}qkv.bias_mask": torch.ones_like(joined)}
        elif not name.endswith(("k_bias", "v_bias")):
            name = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
            official[name.replace("reg_token", "storage_tokens")] = value
    pixels = image(size)
    with torch.no_grad():
        tokens = vit.forward_features(normalized(pixels, "dinov3_vits16"))[:, 5:]
    with saved(official if names == "official" else state, tmp_path / "dinov3.pth") as path:
        features = build_foundation_model("dinov3_vits16", path, size)(pixels)
    assert relative_difference(as_tokens(features), tokens) < TOLERANCE


@pytest.mark.parametrize("size", [224, 160])
def test_clip_gives_the_features_of_open_clip(tmp_path, size):
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")
    clip = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None)
    official = randomize(clip.visual)
    state = {key: value for key, value in clip.state_dict().items() if not key.startswith("transformer.resblocks")}
    if size != 224:
        official = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None, force_image_size=size).visual.eval()
        resized = dict(clip.state_dict())
        open_clip.model.resize_pos_embed(resized, type("Model", (), {"visual": official}))
        parts = {key.removeprefix("visual."): value for key, value in resized.items() if key.startswith("visual.")}
        official.load_state_dict(parts)
    official.output_tokens = True
    pixels = image(size)
    with torch.no_grad():
        _, tokens = official(normalized(pixels, "clip_vitb32"))
    with saved(state, tmp_path / "clip.pth") as path:
        features = build_foundation_model("clip_vitb32", path, size)(pixels)
    assert relative_difference(as_tokens(features), tokens) < TOLERANCE


def test_biomedclip_gives_the_features_of_open_clip(tmp_path):
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")
    # BiomedCLIP's own configuration of the image tower; its text tower needs a file of the hub
    tower = open_clip.timm_model.TimmModel("vit_base_patch16_224", 512, image_size=224, pool="", proj="linear")
    randomize(tower)
    pixels = image(224)
    with torch.no_grad():
        found = tower.forward_intermediates(
            normalized(pixels, "biomedclip"), indices=1, normalize_intermediates=True, intermediates_only=True
        )
    state = {f"visual.{key}": value for key, value in tower.state_dict().items()}
    with saved({"logit_scale": torch.ones(()), "text.proj.0.bias": torch.ones(3), **state}, tmp_path / "b.bin") as path:
        features = build_foundation_model("biomedclip", path)(pixels)
    assert relative_difference(features, found["image_intermediates"][0]) < TOLERANCE


@pytest.mark.parametrize("size", [518, 224])
def test_rad_dino_gives_the_features_of_transformers(tmp_path, size):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.Dinov2Config(image_size=518, patch_size=14)  # the sizes of ViT-B are its defaults
    official = randomize(transformers.Dinov2Model(config))
    official.save_pretrained(tmp_path)
    pixels = image(size)
    with torch.no_grad():
        tokens = official(normalized(pixels, "rad_dino")).last_hidden_state[:, 1:]
    features = build_foundation_model("rad_dino", tmp_path / "model.safetensors", size)(pixels)
    (tmp_path / "model.safetensors").unlink()
    assert relative_difference(as_tokens(features), tokens) < TOLERANCE


def test_mae_gives_the_features_of_timm(tmp_path):
    vit = randomize(timm.create_model("vit_base_patch16_224", num_classes=0))
    pixels = image(224)
    with torch.no_grad():
        tokens = vit.forward_features(normalized(pixels, "mae_vitb16"))[:, 1:]
    with saved({"model": vit.state_dict()}, tmp_path / "mae.pth") as path:
        features = build_foundation_model("mae_vitb16", path)(pixels)
        resized = build_foundation_model("mae_vitb16", path, 128)
    assert relative_difference(as_tokens(features), tokens) < TOLERANCE
    # the official interpolate_pos_embed: bicubic, not antialiased, without offset
    positions = vit.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
    expected = F.interpolate(positions, size=(8, 8), mode="bicubic", align_corners=False)
    torch.testing.assert_close(resized.backbone.pos_embed[:, 1:], expected.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("name", [name for name in FOUNDATION_SPECS if "sam" not in name])
def test_what_is_known_of_a_model_agrees_with_timm(name):
    spec = FOUNDATION_SPECS[name]
    with torch.device("meta"):
        vit = timm.create_model(spec.backbone, num_classes=0)
    assert vit.patch_embed.patch_size == (spec.patch_size, spec.patch_size)
    assert vit.patch_embed.img_size == (spec.image_size, spec.image_size)
    assert vit.embed_dim == spec.channels
    assert vit.patch_embed.grid_size == spec.grid(spec.image_size)
    family = name.split("_")[0]
    if family == "rad":  # timm has no copy: the numbers of microsoft/rad-dino's preprocessor configuration
        assert (spec.mean, spec.std) == ((0.5307,) * 3, (0.2583,) * 3)
    else:
        assert spec.mean == (OPENAI_CLIP_MEAN if "clip" in family else IMAGENET_DEFAULT_MEAN)
    if spec.hub and spec.hub[0].startswith("timm/") and family != "clip":
        architecture, tag = spec.hub[0].removeprefix("timm/").split(".")
        assert timm.get_pretrained_cfg(f"{architecture}.{tag}").hf_hub_id == spec.hub[0]
    if family == "clip":
        cfg = timm.get_pretrained_cfg(f"{spec.backbone}.openai")
        assert (cfg.hf_hub_id, cfg.mean, cfg.std) == (spec.hub[0], spec.mean, spec.std)


@pytest.mark.data
@pytest.mark.skipif(not DINOV2.is_file(), reason=f"needs DINOv2's weights at {DINOV2}")
def test_real_weights_give_the_official_features():
    """Features recorded from the official code (facebookresearch/dinov2, ``x_norm_patchtokens``), same file and image.

    With timm's own resizing of the positions they differ by up to 0.2.
    """
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 126), torch.linspace(0, 1, 126), indexing="ij")
    pixels = torch.stack([rows * columns, rows, 0.5 + 0.5 * torch.sin(12 * columns)])[None]
    features = build_foundation_model("dinov2_vits14", str(DINOV2), image_size=126)(pixels)
    recorded = {
        (0, 0, 0): [-2.27697, -0.78402, 1.03077, -4.01286],
        (100, 4, 7): [-0.70086, -1.30148, -0.28615, 2.91127],
        (380, 8, 8): [2.59823, -1.80935, 1.82415, -0.50088],
    }
    for (channel, row, column), values in recorded.items():
        found = features[0, channel : channel + 4, row, column]
        torch.testing.assert_close(found, torch.tensor(values), atol=1e-3, rtol=0)
    assert features.norm().item() == pytest.approx(400.12637, rel=1e-5)
