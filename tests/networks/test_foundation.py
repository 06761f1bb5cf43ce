from __future__ import annotations

import copy

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from vqseg_bundle.networks.foundation import FoundationModel


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


class CountingModel(FoundationModel):
    """Notes how many images come at once."""

    def __init__(self, image_size):
        super().__init__(
            nn.Conv2d(3, 1, kernel_size=16, stride=16),
            channels=1,
            image_size=image_size,
            grid=(image_size // 16, image_size // 16),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        )
        self.batches = []

    def extract_features(self, images):
        self.batches.append(len(images))
        return self.backbone(images)


@pytest.mark.parametrize(("image_size", "batches"), [(1024, [1] * 5), (512, [4, 1]), (128, [5]), (2048, [1] * 5)])
def test_slices_go_through_a_few_at_a_time(image_size, batches):
    model = CountingModel(image_size)
    assert model(torch.rand(1, 1, 20, 20, 5)).shape == (1, 1, *model.grid, 5)
    assert model.batches == batches


def test_images_go_through_a_few_at_a_time_in_order():
    model, images = CountingModel(512), torch.rand(6, 1, 20, 20)
    features = model(images)
    assert model.batches == [4, 2]
    for index in range(6):
        torch.testing.assert_close(features[index : index + 1], model(images[index : index + 1]))
