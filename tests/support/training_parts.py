"""A tiny network, data and trainer for the tests of the engine."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vqseg_bundle.engines import STRONG, EMATeacher, SemiSupervisedTrainer
from vqseg_bundle.layers import PostVQFeatureAdapter, QuantizedPerturbation, lookup
from vqseg_bundle.losses import VQSegLoss, VQSegTargets
from vqseg_bundle.networks import FoundationModel, VQSegNet, VQSegTrainingModule

WEIGHTS = {"lambda_reconstruction": 0.1, "lambda_commitment": 0.25}


def labeled_batches(batches: int = 3, size: tuple[int, ...] = (16, 16), seed: int = 1) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(2, 1, *size, generator=generator) for _ in range(batches)]
    return [{"image": image, STRONG: image * 1.1, "label": (image > 0).float()} for image in images]


def unlabeled_batches(batches: int = 2, size: tuple[int, ...] = (16, 16), seed: int = 2) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(3, 1, *size, generator=generator) for _ in range(batches)]
    return [{"image": image, STRONG: image * 1.1} for image in images]


def make_student(seed: int = 0, **changes: Any) -> VQSegNet:
    arguments: dict[str, Any] = {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 2,
        "channels": (4, 6, 8),
        "strides": (2, 2),
        "num_embeddings": 16,
        "embedding_dim": 5,
        "quantizer": {"normalize": True},
    }
    torch.manual_seed(seed)
    return VQSegNet(**(arguments | changes))


def make_trainer(student: nn.Module | None = None, adapter: nn.Module | None = None, **changes: Any) -> Any:
    student = student or make_student()
    network = changes.pop("network", None) or VQSegTrainingModule(student, QuantizedPerturbation(), adapter)
    arguments: dict[str, Any] = {
        "device": "cpu",
        "max_epochs": 1,
        "epoch_length": 3,
        "train_data_loader": labeled_batches(),
        "unlabeled_data_loader": unlabeled_batches(),
        "network": network,
        "student": student,
        "teacher": EMATeacher(student),
        "loss_function": VQSegLoss(**WEIGHTS),
        "targets": VQSegTargets,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1),
        "generator": torch.Generator().manual_seed(0),
    }
    return SemiSupervisedTrainer(**(arguments | changes))


class TinyFoundationModel(FoundationModel):
    def __init__(self) -> None:
        conv = nn.Conv2d(3, 7, kernel_size=4, stride=4)
        super().__init__(conv, channels=7, image_size=12, grid=(3, 3), mean=(0.5,) * 3, std=(0.2,) * 3)

    def extract_features(self, images):
        return self.backbone(images)


class Shift(nn.Module):
    """Moves every token to the next code and keeps what came in."""

    needs_codes = True

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch.Tensor, torch.Tensor, torch.Generator | None]] = []

    def forward(self, features, codes, generator=None):
        self.calls.append((codes.indices.clone(), codes.codebook, generator))
        moved = lookup((codes.indices + 1) % len(codes.codebook), codes.codebook)
        return moved.to(features.dtype) + (features - features.detach())


def make_network(**changes: Any) -> VQSegNet:
    """The same weights each time."""
    arguments: dict[str, Any] = {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 3,
        "channels": (4, 6, 8),
        "strides": (2, 2),
        "num_embeddings": 16,
        "embedding_dim": 5,
    }
    torch.manual_seed(0)
    return VQSegNet(**(arguments | changes))


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of its weights."""
    return copy.deepcopy(network.state_dict())


def assert_same_tensors(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


def make_module(
    perturbation: nn.Module | None = None, adapter: bool = False, perturb_skips: bool = False, **changes: Any
) -> VQSegTrainingModule:
    network = make_network(**changes)
    spatial_dims = network.arguments["spatial_dims"]
    post_vq_adapter = PostVQFeatureAdapter(spatial_dims, 5, 7) if adapter else None
    return VQSegTrainingModule(network, perturbation, post_vq_adapter, perturb_skips)


def make_images(labeled: int = 2, unlabeled: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(labeled, 1, 16, 16, generator=generator), torch.randn(unlabeled, 1, 16, 16, generator=generator)
