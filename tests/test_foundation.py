from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from monai.data import MetaTensor
from torch import nn

from vqseg_bundle.networks import foundation
from vqseg_bundle.networks.foundation import DINOv2FoundationModel, FoundationModel, build_foundation_model

URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth"


class MeanColor(FoundationModel):
    """Mean color of each 14 x 14 patch, by a convolution: every value can be worked out by hand."""

    def __init__(self, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)):
        conv = nn.Conv2d(3, 3, kernel_size=14, stride=14, groups=3, bias=False)
        nn.init.constant_(conv.weight, 1 / 14**2)
        backbone = nn.Sequential(conv, nn.Dropout(0.5), nn.BatchNorm2d(3, eps=0.0))
        super().__init__(backbone, channels=3, image_size=28, grid=(2, 2), mean=mean, std=std)

    def extract_features(self, images):
        return self.backbone(images)


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.foundation_model = MeanColor()


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> Iterator[Path]:
    """A checkpoint of random weights with the official key names; deleted at the end, as it is 88 MB large."""
    torch.manual_seed(0)
    state = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0).state_dict()
    state["pos_embed"] = torch.randn_like(state["pos_embed"])
    path = tmp_path_factory.mktemp("weights") / "dinov2_vits14.pth"
    torch.save({"mask_token": torch.zeros(1, 384), **state}, path)
    yield path
    path.unlink()


@pytest.fixture
def constant_state(weights_file) -> dict[str, torch.Tensor]:
    """A half precision checkpoint of one repeated value without mask token: stored once, so that its file is small."""
    state = torch.load(weights_file, weights_only=True)
    del state["mask_token"]
    return {key: torch.tensor(0.1, dtype=torch.float16).expand(value.shape) for key, value in state.items()}


@pytest.fixture(scope="module")
def dinov2(weights_file) -> FoundationModel:
    return build_foundation_model("dinov2_vits14", str(weights_file))


def _quadrants(*values: float) -> torch.Tensor:
    """A grey image (1, 1, 28, 28) of four constant quadrants."""
    return torch.tensor(values).view(1, 1, 2, 2).repeat_interleave(14, 2).repeat_interleave(14, 3)


def test_grey_image_is_scaled_and_repeated():
    features = MeanColor()(_quadrants(-1000.0, -500.0, 0.0, 1000.0))
    expected = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    torch.testing.assert_close(features, expected)


def test_mean_and_std_apply_after_scaling():
    features = MeanColor(mean=(0.5, 0.0, 0.25), std=(0.5, 2.0, 0.25))(_quadrants(3.0, 3.0, 3.0, 7.0))
    expected = torch.tensor([[-1.0, 1.0], [0.0, 0.5], [-1.0, 3.0]])  # values at scaled 0 and 1
    torch.testing.assert_close(features[0, :, 1], expected)


def test_each_image_of_the_batch_is_scaled_by_itself():
    image = _quadrants(0.0, 1.0, 2.0, 4.0)
    features = MeanColor()(torch.cat([image, 100 * image - 7]))
    torch.testing.assert_close(features[0], features[1])


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channel_counts_than_three_are_averaged_to_grey(channels):
    grey = _quadrants(0.0, 1.0, 2.0, 4.0)
    weights = torch.arange(1.0, channels + 1).view(1, -1, 1, 1)
    torch.testing.assert_close(MeanColor()(weights * grey), MeanColor()(grey))


def test_three_channels_keep_their_colors():
    image = torch.cat([_quadrants(0, 0, 0, 0), _quadrants(2, 2, 2, 2), _quadrants(4, 4, 4, 4)], dim=1)
    torch.testing.assert_close(MeanColor()(image)[0, :, 0, 0], torch.tensor([0.0, 0.5, 1.0]))


def test_constant_image_becomes_zero():
    assert (MeanColor()(torch.full((1, 1, 28, 28), 5.0)) == 0).all()


def test_integer_and_odd_sized_images_are_resized_to_the_grid():
    image = torch.zeros(1, 1, 56, 14, dtype=torch.int16)
    image[:, :, :, 7:] = 300
    features = MeanColor()(image)
    assert features.shape == (1, 3, 2, 2)
    assert features[0, 0, :, 0].max() < 0.1
    assert features[0, 0, :, 1].min() > 0.9


def test_shrinking_is_antialiased():
    checkerboard = (torch.arange(112).view(-1, 1) + torch.arange(112)) % 2
    features = MeanColor()(checkerboard.view(1, 1, 112, 112).float())
    torch.testing.assert_close(features, torch.full((1, 3, 2, 2), 0.5), atol=0.01, rtol=0)


@pytest.mark.parametrize(("depth", "slices"), [(3, [1, 4, 6]), (1, [4]), (8, list(range(8))), (None, list(range(8)))])
def test_volumes_run_the_central_slices_on_a_common_scale(depth, slices):
    volume = torch.arange(8.0).expand(2, 1, 20, 24, 8)
    features = MeanColor()(volume, depth=depth)
    expected = torch.tensor([k / 7 for k in slices]).expand(2, 3, 2, 2, len(slices))
    torch.testing.assert_close(features, expected)


def test_slices_stay_with_their_volume():
    volumes = torch.rand(2, 1, 28, 28, 5)
    features = MeanColor()(volumes, depth=5)
    for index in range(2):
        torch.testing.assert_close(features[index : index + 1], MeanColor()(volumes[index : index + 1]))


@pytest.mark.parametrize(
    ("shape", "depth", "message"),
    [
        ((1, 28, 28), None, r"images must be .*, got shape \(1, 28, 28\)"),
        ((1, 1, 28, 28), 4, "depth must be None for 2D images .* got 4"),
        ((1, 1, 28, 28, 5), 0, r"1 to D for volumes, got 0 for shape \(1, 1, 28, 28, 5\)"),
        ((1, 1, 28, 28, 5), 6, "1 to D for volumes, got 6"),
    ],
)
def test_forward_refuses(shape, depth, message):
    with pytest.raises(ValueError, match=message):
        MeanColor()(torch.zeros(shape), depth=depth)


def test_features_are_plain_float32_without_gradient():
    image = MetaTensor(_quadrants(0.0, 1.0, 2.0, 3.0)).requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = MeanColor()(image)
    assert type(features) is torch.Tensor
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert not features.is_inference()  # could not be saved for a loss's backward


def test_weights_are_outside_the_holders_state_and_parameters():
    holder = Holder()
    plain = {"layer.weight", "layer.bias"}
    assert set(holder.state_dict()) == plain
    assert {name for name, _ in holder.named_parameters()} == plain
    result = holder.load_state_dict({"layer.weight": torch.eye(2), "layer.bias": torch.zeros(2)}, strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys


def test_holder_cannot_train_or_reinitialise_the_backbone():
    holder = Holder().train().requires_grad_(True)
    before = copy.deepcopy(holder.foundation_model.backbone.state_dict())
    holder.apply(lambda module: module.reset_parameters() if isinstance(module, nn.Conv2d) else None)
    image = _quadrants(0.0, 1.0, 2.0, 4.0)
    torch.testing.assert_close(holder.foundation_model(image), holder.foundation_model(image), rtol=0, atol=0)
    backbone = holder.foundation_model.backbone
    assert holder.training
    assert not holder.foundation_model.training
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_moving_the_holder_moves_the_backbone():
    holder = Holder().to("meta")
    assert {parameter.device.type for parameter in holder.foundation_model.backbone.parameters()} == {"meta"}
    half = MeanColor().half()
    assert next(half.backbone.parameters()).dtype == torch.float16
    features = half(_quadrants(0.0, 1.0, 2.0, 4.0))
    torch.testing.assert_close(features[0, 0], torch.tensor([[0.0, 0.25], [0.5, 1.0]]), atol=2e-3, rtol=0)


def test_deep_copy_is_independent():
    model = MeanColor()
    clone = copy.deepcopy(model)
    nn.init.zeros_(clone.backbone[0].weight)
    torch.testing.assert_close(model(_quadrants(0.0, 0.0, 0.0, 8.0))[0, 0, 1, 1], torch.tensor(1.0))


def test_dinov2_shapes(dinov2):
    assert (dinov2.channels, dinov2.image_size, dinov2.grid) == (384, 126, (9, 9))
    assert dinov2(torch.rand(2, 1, 40, 60)).shape == (2, 384, 9, 9)
    assert dinov2(torch.rand(1, 1, 40, 60, 6), depth=2).shape == (1, 384, 9, 9, 2)


def test_dinov2_patches_lie_in_row_major_order(dinov2):
    images = torch.randn(1, 3, 126, 126, generator=torch.Generator().manual_seed(3))
    tokens = dinov2.backbone.forward_features(images)[0, 1:]  # the class token comes first
    features = dinov2.extract_features(images)[0]
    torch.testing.assert_close(features[:, 2, 5], tokens[2 * 9 + 5])


def test_dinov2_uses_the_file_and_resizes_positions_the_official_way(dinov2, weights_file):
    state = torch.load(weights_file, weights_only=True)
    torch.testing.assert_close(dinov2.backbone.blocks[11].mlp.fc2.weight.data, state["blocks.11.mlp.fc2.weight"])
    grid = state["pos_embed"][:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, scale_factor=(9.1 / 37, 9.1 / 37), mode="bicubic", antialias=False)
    expected = torch.cat([state["pos_embed"][:, :1], resized.permute(0, 2, 3, 1).reshape(1, 81, 384)], dim=1)
    torch.testing.assert_close(dinov2.backbone.pos_embed.data, expected)


def test_dinov2_keeps_the_positions_at_the_native_size(weights_file):
    model = build_foundation_model("dinov2_vits14", str(weights_file), image_size=518)
    assert model.grid == (37, 37)
    stored = torch.load(weights_file, weights_only=True)["pos_embed"]
    torch.testing.assert_close(model.backbone.pos_embed.data, stored, rtol=0, atol=0)


def test_dinov2_takes_a_half_precision_file_without_mask_token(constant_state, tmp_path):
    torch.save(constant_state, tmp_path / "half.pth")
    model = DINOv2FoundationModel(weights=tmp_path / "half.pth", image_size=28)
    weight = model.backbone.blocks[0].attn.qkv.weight
    assert weight.dtype == torch.float32
    assert (weight == torch.tensor(0.1, dtype=torch.float16).float()).all()


def test_dinov2_without_file_downloads_through_timm(monkeypatch):
    def fill(model, **kwargs):
        nn.init.constant_(model.cls_token, 7.0)

    monkeypatch.setattr(foundation, "load_pretrained", fill)
    model = build_foundation_model("dinov2_vits14", image_size=28)
    assert (model.backbone.cls_token == 7.0).all()


def test_failed_download_says_where_to_get_the_file(monkeypatch):
    def fail(model, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(foundation, "load_pretrained", fail)
    with pytest.raises(FileNotFoundError, match=f"could not be downloaded.*{URL}.*by the key foundation_weights"):
        build_foundation_model("dinov2_vits14")


def test_missing_file_is_named_with_the_remedy(tmp_path):
    path = tmp_path / "absent.pth"
    with pytest.raises(FileNotFoundError, match=f"no file '{path}'.*{URL}.*foundation_weights"):
        build_foundation_model("dinov2_vits14", str(path))


def _truncated(state: dict, path: Path) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _without_last_block(state: dict, path: Path) -> None:
    torch.save({key: value for key, value in state.items() if not key.startswith("blocks.11.")}, path)


def _of_another_width(state: dict, path: Path) -> None:
    torch.save({**state, "norm.weight": torch.ones(768)}, path)


def _with_more_blocks(state: dict, path: Path) -> None:
    torch.save({**state, "blocks.12.norm1.weight": torch.ones(384)}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_truncated, "is damaged or not a checkpoint"),
        (lambda state, path: path.write_bytes(b""), "is damaged or not a checkpoint"),
        (lambda state, path: path.write_text("<html>404</html>"), "is damaged or not a checkpoint"),
        (lambda state, path: torch.save([1, 2], path), "is damaged or not a checkpoint"),
        (lambda state, path: torch.save({"epoch": 3}, path), "is not a checkpoint of vit_small_patch14_dinov2"),
        (_without_last_block, r"is not a checkpoint of vit_small_patch14_dinov2.*blocks\.11\.norm1\.weight"),
        (_of_another_width, r"is not a checkpoint of vit_small_patch14_dinov2.*norm\.weight.*768"),
        (_with_more_blocks, r"is not a checkpoint of vit_small_patch14_dinov2.*blocks\.12\.norm1\.weight"),
    ],
    ids=["truncated", "empty", "text", "list", "foreign", "missing keys", "other width", "other depth"],
)
def test_wrong_file_is_named_with_the_remedy(constant_state, tmp_path, write, message):
    path = tmp_path / "wrong.pth"
    write(constant_state, path)
    with pytest.raises(ValueError, match=rf"'{path}' {message}") as caught:
        build_foundation_model("dinov2_vits14", str(path))
    assert URL in str(caught.value)
    assert "by the key foundation_weights" in str(caught.value)


@pytest.mark.parametrize("image_size", [0, -14, 13, 128])
def test_image_size_must_be_a_multiple_of_the_patch_size(image_size):
    with pytest.raises(
        ValueError, match=f"image_size must be a positive multiple of the patch size 14, got {image_size}"
    ):
        build_foundation_model("dinov2_vits14", "unused.pth", image_size=image_size)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"foundation_model must be one of \['none', 'dinov2_vits14'\], got 'dino'"):
        build_foundation_model("dino")
    with pytest.raises(ValueError, match=r"model_name must be one of .*'vit_small_patch14_dinov2'.* got 'resnet18'"):
        DINOv2FoundationModel("resnet18")


def test_none_builds_nothing():
    assert build_foundation_model("none") is None


def _real_weights() -> Path:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("VQSEG_DATA_ROOT", default))
    return root.parent / "weights" / "dinov2_vits14_pretrain.pth"


@pytest.mark.data
@pytest.mark.skipif(
    not _real_weights().is_file(), reason="needs ../weights/dinov2_vits14_pretrain.pth at VQSEG_DATA_ROOT"
)
def test_real_weights_give_the_official_features():
    """Features recorded from the official code (facebookresearch/dinov2, ``x_norm_patchtokens``), same file and image.

    With timm's own resizing of the positions they differ by up to 0.2.
    """
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 126), torch.linspace(0, 1, 126), indexing="ij")
    image = torch.stack([rows * columns, rows, 0.5 + 0.5 * torch.sin(12 * columns)])[None]
    features = build_foundation_model("dinov2_vits14", str(_real_weights()))(image)
    recorded = {
        (0, 0, 0): [-2.27697, -0.78402, 1.03077, -4.01286],
        (100, 4, 7): [-0.70086, -1.30148, -0.28615, 2.91127],
        (380, 8, 8): [2.59823, -1.80935, 1.82415, -0.50088],
    }
    for (channel, row, column), values in recorded.items():
        found = features[0, channel : channel + 4, row, column]
        torch.testing.assert_close(found, torch.tensor(values), atol=1e-3, rtol=0)
    assert features.norm().item() == pytest.approx(400.12637, rel=1e-5)
