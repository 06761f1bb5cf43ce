"""The codes of a slice's tokens, and their colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scripts.figures.trained_network import Case, SliceView, TrainedNetwork

__all__ = ["TokenMap", "map_tokens", "principal_colors"]

# Colours span the reference except for the outermost values at each end.
_QUANTILE = 0.02


class TokenMap(NamedTuple):
    """A slice and its tokens.

    Attributes:
        image: ``(H, W)``, the first channel.
        places: number of each pixel's token, ``(H, W)``, int64.
        tokens: codes of the tokens, ``(h, w)``.
        colors: colour of each code, ``(K, 3)`` in [0, 1].
        view: layout of the slice.
    """

    image: np.ndarray
    places: np.ndarray
    tokens: np.ndarray
    colors: np.ndarray
    view: SliceView

    @property
    def indices(self) -> np.ndarray:
        """Code of each pixel's token, ``(H, W)``."""
        return self.tokens.ravel()[self.places]


@torch.no_grad()
def map_tokens(trained: TrainedNetwork, case: Case, number: int) -> TokenMap:
    """Quantise a slice: whole for a 2D network, within a central patch for a 3D network."""
    image, offset, view = case.image[..., number], None, case.view
    if not _is_2d(trained):
        image, offset, starts = _patch(trained, case.image, number)
        view = view.within(starts, trained.patch_size)
    tokens = trained.quantizer(trained.network.encode(image[None]).features).indices[0]
    if offset is not None:
        image, tokens = image[..., offset], tokens[..., offset // trained.network.stride[2]]
    places = torch.arange(tokens.numel()).reshape(tokens.shape)
    for axis, (stride, size) in enumerate(zip(trained.network.stride[:2], image.shape[1:], strict=True)):
        places = places.repeat_interleave(stride, dim=axis).narrow(axis, 0, size)
    colors = principal_colors(trained.quantizer.project_codebook().float())[0]
    return TokenMap(image[0].numpy(), places.numpy(), tokens.numpy(), colors.numpy(), view)


def principal_colors(reference: Tensor, others: Sequence[Tensor] = ()) -> list[Tensor]:
    """Colours of features: the first three principal components of the reference are red, green and blue.

    Args:
        reference: ``(N, C)``, N at least 3.
        others: ``(M, C)`` each, with the same components and scale, so that similar features have similar colours.

    Returns:
        ``(N, 3)`` for the reference, then ``(M, 3)`` for each of the others, in [0, 1].
    """
    mean = reference.mean(dim=0)
    components = torch.linalg.svd(reference - mean, full_matrices=False).Vh[:3]
    # a singular vector's sign is arbitrary: its largest entry is made positive, as on any machine
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    components = components * largest.sign()
    projected = [(each - mean) @ components.T for each in (reference, *others)]
    low, high = (projected[0].quantile(share, dim=0) for share in (_QUANTILE, 1 - _QUANTILE))
    span = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
    return [((each - low) / span).clamp(0, 1) for each in projected]


def _is_2d(trained: TrainedNetwork) -> bool:
    return len(trained.network.stride) == 2


def _patch(trained: TrainedNetwork, volume: Tensor, number: int) -> tuple[Tensor, int, list[int]]:
    """A patch around the slice, centred in the other axes; the slice's index in it, and its start."""
    starts = [(size - length) // 2 for size, length in zip(volume.shape[1:], trained.patch_size, strict=True)]
    starts[2] = min(max(0, number - trained.patch_size[2] // 2), volume.shape[3] - trained.patch_size[2])
    for axis, (start, length) in enumerate(zip(starts, trained.patch_size, strict=True)):
        volume = volume.narrow(1 + axis, start, length)
    return volume, number - starts[2], starts
