"""The interface of frozen vision foundation models, the targets of VQ-Seg's Post-VQ Feature Adapter.

VQ-Seg (Yang et al., NeurIPS 2025, https://arxiv.org/abs/2601.10124) aligns post-VQ features with the patch features of
a frozen foundation model, DINOv2 by default.

A :class:`FoundationModel` keeps its backbone out of ``nn.Module``'s registry: its weights are not in the ``state_dict``
or ``parameters()`` of the module that contains it (hence not in checkpoints, optimisers or DDP's buckets), ``train``
and ``apply`` cannot reach them, but ``.to(device)`` still moves them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = ["FoundationModel", "scale_to_unit"]

# Total pixels, after resizing, that go through a backbone at once: one of SAM's 1024 x 1024 images.
_PIXELS_AT_ONCE = 2**20


class FoundationModel(nn.Module, ABC):
    """Patch features of a frozen image model, for 2D images or the slices of volumes.

    Preparation of the input, in float32: two channels or more than three are averaged to grey; each image (each volume
    as a whole, so that its slices keep a common scale) is min-max scaled to [0, 1], a constant one to 0; resized to a
    square of ``image_size`` (bilinear, antialiased when it shrinks); grey is repeated to three channels; the model's
    own mean and standard deviation are applied. Images, and slices of volumes, go through the model a few at a time, so
    memory does not grow with their number, except for the features.

    The features have no gradient. The model is always in eval mode.

    Args:
        backbone: the image model; frozen here.
        channels: channels of its patch features. This and the next two are kept as attributes.
        image_size: side of the square image that the backbone takes, in pixels.
        grid: its patch grid ``(h, w)`` at that size.
        mean: three channel means for inputs in [0, 1].
        std: three channel standard deviations for inputs in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        channels: int,
        image_size: int,
        grid: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.channels = channels
        self.image_size = image_size
        self.grid = grid
        # In a tuple, because nn.Module would register a plain attribute as a child.
        self._unregistered = (backbone.requires_grad_(False).eval(),)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.eval()

    @property
    def backbone(self) -> nn.Module:
        """The frozen image model."""
        return self._unregistered[0]

    @abstractmethod
    def extract_features(self, images: Tensor) -> Tensor:
        """Patch features ``(N, channels, *grid)`` of prepared images ``(N, 3, image_size, image_size)``."""

    @torch.no_grad()
    def forward(self, images: Tensor, depth: int | None = None) -> Tensor:
        """Compute patch features.

        Args:
            images: ``(B, C, H, W)``, or volumes ``(B, C, H, W, D)`` with slices along the last axis; any intensities.
            depth: volumes only: how many slices to use, from 1 to D. Slice ``k`` is the one at the centre of the k-th
                of ``depth`` equal parts, ``floor((k + 0.5) * D / depth)``. Defaults to all D.

        Returns:
            Float32 features, ``(B, channels, h, w)`` for images or ``(B, channels, h, w, depth)`` for volumes.

        Raises:
            ValueError: ``images`` is neither 4- nor 5-dimensional, or ``depth`` does not fit it.
        """
        if images.ndim not in (4, 5):
            raise ValueError(f"images must be (B, C, H, W) or (B, C, H, W, D), got shape {tuple(images.shape)}.")
        if depth is not None and (images.ndim == 4 or not 1 <= depth <= images.shape[-1]):
            raise ValueError(
                f"depth must be None for 2D images and 1 to D for volumes, got {depth} for shape {tuple(images.shape)}."
            )
        # A plain tensor: MetaTensor's bookkeeping would cost time in each of the backbone's operations.
        scaled = scale_to_unit(images.as_subclass(torch.Tensor).float())
        if scaled.ndim == 4:
            return self._features_of(scaled)
        slices = _center_slices(scaled, scaled.shape[-1] if depth is None else depth)  # (B * depth, C, H, W)
        features = self._features_of(slices).unflatten(0, (images.shape[0], -1))  # (B, depth, channels, h, w)
        return features.movedim(1, -1)

    def train(self, mode: bool = True) -> FoundationModel:
        """Stay in eval mode for any ``mode``."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FoundationModel:
        """Extend ``to``, ``cuda``, ``half`` and the like to the unregistered backbone."""
        super()._apply(fn, recurse)
        self.backbone._apply(fn, recurse)
        return self

    def _features_of(self, scaled: Tensor) -> Tensor:
        """Features of images in [0, 1], a few at a time to limit memory."""
        chunks = scaled.split(max(1, _PIXELS_AT_ONCE // self.image_size**2))
        return torch.cat([self.extract_features(self._prepare(chunk)).float() for chunk in chunks])

    def _prepare(self, scaled: Tensor) -> Tensor:
        """Resize images in [0, 1] with one or three channels and normalise them as the backbone expects."""
        size = (self.image_size, self.image_size)
        resized = F.interpolate(scaled, size=size, mode="bilinear", align_corners=False, antialias=True)
        normalized = (resized.expand(-1, 3, -1, -1) - self.mean) / self.std
        return normalized.to(next(self.backbone.parameters()).dtype)


def scale_to_unit(images: Tensor) -> Tensor:
    """Min-max scale each image ``(B, C, *S)``, float32, to [0, 1]; unless it has three channels, average it to grey.

    A constant image becomes 0. Scriptable.
    """
    if images.shape[1] != 3:
        images = images.mean(dim=1, keepdim=True)
    axes = list(range(1, images.ndim))
    low, high = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    return (images - low) / (high - low).clamp_min(1.2e-38)


def _center_slices(volumes: Tensor, depth: int) -> Tensor:
    """The central slices of ``depth`` equal parts of ``(B, C, H, W, D)``, as a batch ``(B * depth, C, H, W)``."""
    centers = [(2 * k + 1) * volumes.shape[-1] // (2 * depth) for k in range(depth)]
    return volumes[..., centers].movedim(-1, 1).flatten(0, 1)
