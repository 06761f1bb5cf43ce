"""Adapted and foundation features of a volume, as compared in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from monai.transforms import CenterSpatialCrop
from torch import Tensor

from vqseg_bundle.layers import PostVQFeatureAdapter
from vqseg_bundle.networks import FoundationModel, VQSegNet

__all__ = ["SlicePatches", "ViewFeatures", "as_patches"]


class SlicePatches(NamedTuple):
    """Slices of a volume, patch by patch.

    Attributes:
        images: ``(S, H, W)``, first channel of the foundation model's input slices.
        adapted: ``(S, h * w, C_f)`` by name of the adapter.
        foundation: ``(S, h * w, C_f)``.
        grid: ``(h, w)``.
    """

    images: Tensor
    adapted: dict[str, Tensor]
    foundation: Tensor
    grid: tuple[int, int]


class ViewFeatures:
    """Features of a volume's centre, cropped to the training's size; unperturbed, in eval mode.

    Args:
        network: the trained network.
        adapters: adapters of its post-VQ features, by name.
        foundation: the frozen model.
        depth: token slices of a 3D network's view; None for a 2D network, which gets every slice.
        patch_size: size of a view, with the network's number of axes.
        batch_size: slices or volumes per call.
    """

    def __init__(
        self,
        network: VQSegNet,
        adapters: Mapping[str, PostVQFeatureAdapter],
        foundation: FoundationModel,
        depth: int | None,
        patch_size: Sequence[int],
        batch_size: int = 8,
    ) -> None:
        self.network = network.eval()
        self.adapters = dict(adapters)
        self.foundation = foundation
        self.depth = depth
        self.crop = CenterSpatialCrop([*patch_size, *[-1] * (3 - len(patch_size))])
        self.batch_size = batch_size
        self._device = next(network.parameters()).device

    @torch.inference_mode()
    def __call__(self, volume: Tensor) -> SlicePatches:
        """Features of a preprocessed volume ``(C, H, W, D)``."""
        view = self.crop(volume.as_subclass(torch.Tensor)).as_subclass(torch.Tensor).float()
        images = view.movedim(-1, 0) if self.depth is None else view.unsqueeze(0)  # (S, C, H, W) or (1, C, H, W, D)
        adapted: dict[str, list[Tensor]] = {name: [] for name in self.adapters}
        foundation = []
        for batch in images.to(self._device).split(self.batch_size):
            target = self.foundation(batch) if self.depth is None else self.foundation(batch, depth=self.depth)
            foundation.append(as_patches(target).cpu())
            quantized = self._quantized(batch)
            for name, adapter in self.adapters.items():
                adapted[name].append(as_patches(adapter(quantized, target.shape[2:])).cpu())
        joined = torch.cat(foundation)
        slices = view[0].movedim(-1, 0)  # (D, H, W)
        # as FoundationModel chooses the slices of a volume
        centers = [(2 * index + 1) * len(slices) // (2 * len(joined)) for index in range(len(joined))]
        by_name = {name: torch.cat(parts) for name, parts in adapted.items()}
        return SlicePatches(slices[centers], by_name, joined, self.foundation.grid)

    def _quantized(self, images: Tensor) -> Tensor:
        """Post-VQ features, or the bottleneck of a network without a quantiser, as in training."""
        features = self.network.encode(images).features
        return features if self.network.quantizer is None else self.network.quantizer(features).quantized


def as_patches(features: Tensor) -> Tensor:
    """Patch vectors ``(N, h * w, C)``, row by row, of ``(B, C, h, w)`` or, slice by slice, ``(B, C, h, w, d)``."""
    if features.ndim == 5:
        features = features.movedim(-1, 1).flatten(0, 1)  # (B, C, h, w, d) -> (B * d, C, h, w)
    return features.flatten(2).transpose(1, 2)
