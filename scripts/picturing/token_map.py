"""Which code each token of a slice gets, and the colours to show it in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scripts.picturing.principal_colors import principal_colors
from scripts.picturing.trained_network import Case, TrainedNetwork

__all__ = ["TokenMap", "map_tokens"]


class TokenMap(NamedTuple):
    """A slice and its tokens.

    Attributes:
        image: ``(H, W)``, the first channel.
        indices: code of each pixel's token, ``(H, W)``, int64.
        tokens: codes of the tokens, ``(h, w)``.
        colors: of each code, ``(K, 3)`` in [0, 1].
    """

    image: np.ndarray
    indices: np.ndarray
    tokens: np.ndarray
    colors: np.ndarray


@torch.no_grad()
def map_tokens(trained: TrainedNetwork, case: Case, number: int) -> TokenMap:
    """Quantise a slice: of a 2D network the whole slice at once, of a 3D network within a patch at its middle.

    Args:
        trained: the network.
        case: the volume.
        number: the slice, along the last axis.
    """
    image, offset = (case.image[..., number], None) if _is_2d(trained) else _patch(trained, case.image, number)
    indices = trained.quantizer(trained.network.encode(image[None]).features).indices[0]
    pixels = indices
    for axis, stride in enumerate(trained.network.stride):
        pixels = pixels.repeat_interleave(stride, dim=axis).narrow(axis, 0, image.shape[1 + axis])
    if offset is not None:
        image, pixels = image[..., offset], pixels[..., offset]
        indices = indices[..., offset // trained.network.stride[2]]
    colors = principal_colors(trained.quantizer.project_codebook().float())[0]
    return TokenMap(image[0].numpy(), pixels.numpy(), indices.numpy(), colors.numpy())


def _is_2d(trained: TrainedNetwork) -> bool:
    return len(trained.network.stride) == 2


def _patch(trained: TrainedNetwork, volume: Tensor, number: int) -> tuple[Tensor, int]:
    """A patch around the slice, in the middle of the other axes; and where in it the slice lies."""
    starts = [(size - length) // 2 for size, length in zip(volume.shape[1:], trained.patch_size, strict=True)]
    starts[2] = min(max(0, number - trained.patch_size[2] // 2), volume.shape[3] - trained.patch_size[2])
    for axis, (start, length) in enumerate(zip(starts, trained.patch_size, strict=True)):
        volume = volume.narrow(1 + axis, start, length)
    return volume, number - starts[2]
