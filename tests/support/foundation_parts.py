"""Foundation models and the published network, small and with random weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from support.bundle_runs import ROOT
from vqseg_bundle.networks import FoundationModel
from vqseg_bundle.networks.foundation import FOUNDATION_SPECS

#: the real weights, where they are
DINOV2 = (
    Path(os.environ.get("VQSEG_DATA_ROOT") or ROOT.parent / "shared" / "data").parent
    / "weights"
    / "dinov2_vits14_pretrain.pth"
)


class PatchMeans(FoundationModel):
    """The mean of each patch of 14 x 14 pixels, in three channels."""

    def __init__(self, image_size: int) -> None:
        grid = (image_size // 14, image_size // 14)
        nn.Linear(2, 2)  # draws random numbers, as building a real model does
        kwargs = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        super().__init__(nn.AvgPool2d(14), channels=3, image_size=image_size, grid=grid, **kwargs)
        self.backbone.register_parameter("unused", nn.Parameter(torch.zeros(1), requires_grad=False))

    def extract_features(self, images):
        return self.backbone(images)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill all parameters such that each of them matters; fresh models have many zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.squeeze().ndim > 1:
            nn.init.normal_(parameter, std=0.05, generator=generator)
        else:
            nn.init.uniform_(parameter, 0.1, 1.0, generator=generator)
    return module.eval()


@contextmanager
def saved(state: object, path: Path) -> Iterator[str]:
    """A checkpoint file that is there for the block alone: such files are large."""
    torch.save(state, path)
    try:
        yield str(path)
    finally:
        path.unlink()


def image(size: int, seed: int = 0) -> Tensor:
    """An image (1, 3, size, size) that spans [0, 1], so that scaling and resizing leave it as it is."""
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return (pixels - pixels.min()) / (pixels.max() - pixels.min())


def normalized(images: Tensor, name: str) -> Tensor:
    """What the named model's own users give it."""
    spec = FOUNDATION_SPECS[name]
    return (images - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)


def as_tokens(features: Tensor) -> Tensor:
    """(B, channels, h, w) as (B, h * w, channels)."""
    return features.flatten(2).transpose(1, 2)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest expected value."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


#: its network "small" with 4 classes
WIDTH, DEPTH, CODES, FUSED, WIDTHS, CLASSES = 384, 12, 16384, 64, (48, 96, 192, 384), 4


def _published_shapes() -> dict[str, tuple[int, ...]]:
    def layer(name: str, *shape: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": shape, **({f"{name}.bias": (shape[0],)} if bias else {})}

    shapes: dict[str, tuple[int, ...]] = {
        "backbone.cls_token": (1, 1, WIDTH),
        "backbone.pos_embed": (1, 37 * 37 + 1, WIDTH),
        "backbone.mask_token": (1, WIDTH),
        **layer("backbone.patch_embed.proj", WIDTH, 3, 14, 14),
    }
    for index in range(DEPTH):
        block = f"backbone.blocks.{index}"
        shapes |= layer(f"{block}.norm1", WIDTH) | layer(f"{block}.norm2", WIDTH)
        shapes |= layer(f"{block}.attn.qkv", 3 * WIDTH, WIDTH) | layer(f"{block}.attn.proj", WIDTH, WIDTH)
        shapes |= layer(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH) | layer(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
        shapes |= {f"{block}.ls1.gamma": (WIDTH,), f"{block}.ls2.gamma": (WIDTH,)}
    shapes |= layer("backbone.norm", WIDTH)
    for level, width in enumerate(WIDTHS):
        shapes |= layer(f"head.projects.{level}", width, WIDTH, 1, 1)
        shapes |= layer(f"head.scratch.layer{level + 1}_rn", FUSED, width, 3, 3, bias=False)
        fusion = f"head.scratch.refinenet{level + 1}"
        shapes |= layer(f"{fusion}.out_conv", FUSED, FUSED, 1, 1)
        for unit in (1, 2):
            for conv in (1, 2):
                shapes |= layer(f"{fusion}.resConfUnit{unit}.conv{conv}", FUSED, FUSED, 3, 3)
    for level, kernel in ((0, 4), (1, 2), (3, 3)):
        shapes |= layer(f"head.resize_layers.{level}", WIDTHS[level], WIDTHS[level], kernel, kernel)
    shapes |= layer("head.scratch.output_conv.0", FUSED, FUSED, 3, 3)
    shapes |= layer("head.scratch.output_conv.2", CLASSES, FUSED, 1, 1)
    return shapes | {"vq.codebook.weight": (CODES, WIDTH)} | layer("vq.embedding_proj", WIDTH, WIDTH)


def published_state(seed: int = 0) -> dict[str, Tensor]:
    """Weights under the names that train.py saves, in an order of their own; every parameter matters."""
    random = np.random.RandomState(seed)  # whose numbers numpy promises not to change
    state = {}
    for name, shape in sorted(_published_shapes().items()):
        values = 0.05 * random.standard_normal(shape)
        if name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma")):
            values += 1.0
        if name.startswith("vq.codebook"):
            values *= 20.0
        state[f"model.{name}"] = torch.from_numpy(values).float()
    counts = {"model.vq.code_use_count": torch.zeros(CODES, dtype=torch.int64)}
    return {**state, **counts, "model.vq.total_tokens": torch.zeros(1, dtype=torch.int64)}


def grey_image(size: tuple[int, int], seed: int = 0) -> Tensor:
    """An image (1, 1, *size) that spans [0, 1]."""
    pixels = torch.from_numpy(np.random.RandomState(seed).random_sample((1, 1, *size))).float()
    return (pixels - pixels.min()) / (pixels.max() - pixels.min())
