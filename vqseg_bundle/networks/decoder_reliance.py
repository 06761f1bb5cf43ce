"""How much a prediction depends on the codes, and on the skip connections that bypass them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vqseg_bundle.layers import VectorQuantizer
from vqseg_bundle.networks.vq_network import VQNetwork

__all__ = ["CodeExchange", "CodeReliance", "SkipsCut", "code_reliance", "soft_overlap"]


class CodeReliance(NamedTuple):
    """The loss of a prediction if the decoder's input is replaced, scalars in [0, 1].

    Attributes:
        codes: with the codes of another image; 0 if the decoder ignores the codes.
        skips: with zeros for the maps of all skip connections; 0 if there are none.
    """

    codes: Tensor
    skips: Tensor


@torch.no_grad()
def code_reliance(network: VQNetwork, images: Tensor) -> CodeReliance:
    r"""Compare predictions, no labels needed: :math:`1 - O(p, p')` with :math:`O` the :func:`soft_overlap`.

    :math:`p` is the softmax of the deployed path, :math:`p'` the same with each image's codes replaced by another's, or
    without skip connections.

    Args:
        network: with a quantiser, in ``eval`` mode.
        images: ``(B, in_channels, *S)``, at least 2.

    Raises:
        ValueError: the network has no quantiser, or there is no second image.
    """
    quantizer = _quantizer(network)
    if len(images) < 2:
        raise ValueError(f"code_reliance needs at least 2 images to exchange codes between, got {len(images)}.")
    size = list(images.shape[2:])
    encoding = network.encode(images)
    codes = quantizer(encoding.features).quantized
    skips = network.pass_skips(encoding.skips)

    def predict(codes: Tensor, maps: list[Tensor]) -> Tensor:
        return network.decode_segmentation(codes, maps, size).float().softmax(dim=1)

    own = predict(codes, skips)
    exchanged = predict(codes.roll(-1, dims=0), skips)
    cut = predict(codes, [torch.zeros_like(skip) for skip in skips])
    return CodeReliance(1.0 - soft_overlap(own, exchanged), 1.0 - soft_overlap(own, cut))


class CodeExchange(nn.Module):
    """The deployed path with the codes of another image.

    Args:
        network: with a quantiser; its weights are shared.

    Shape:
        - pair: ``(B, 2 in_channels, *S)``, the image and the one that gives the codes, so that an inferer divides both
          alike.
        - output: logits ``(B, out_channels, *S)``.
    """

    def __init__(self, network: VQNetwork) -> None:
        super().__init__()
        self.network = network

    def project_codebook(self) -> Tensor | None:
        """The codewords ``(K, D)``."""
        return self.network.project_codebook()

    def forward(self, pair: Tensor, codebook: Tensor | None = None) -> Tensor:
        """Logits; ``codebook`` as the network's own ``forward`` takes it."""
        image, other = pair.chunk(2, dim=1)
        codes = _quantizer(self.network)(self.network.encode(other).features, codebook).quantized
        skips = self.network.pass_skips(self.network.encode(image).skips)
        return self.network.decode_segmentation(codes, skips, list(image.shape[2:]))


class SkipsCut(nn.Module):
    """The deployed path with zeros for the maps of all skip connections.

    Args:
        network: with a quantiser; its weights are shared.

    Shape:
        - image: ``(B, in_channels, *S)``.
        - output: logits ``(B, out_channels, *S)``.
    """

    def __init__(self, network: VQNetwork) -> None:
        super().__init__()
        self.network = network

    def project_codebook(self) -> Tensor | None:
        """The codewords ``(K, D)``."""
        return self.network.project_codebook()

    def forward(self, image: Tensor, codebook: Tensor | None = None) -> Tensor:
        """Logits; ``codebook`` as the network's own ``forward`` takes it."""
        encoding = self.network.encode(image)
        codes = _quantizer(self.network)(encoding.features, codebook).quantized
        skips = [torch.zeros_like(skip) for skip in self.network.pass_skips(encoding.skips)]
        return self.network.decode_segmentation(codes, skips, list(image.shape[2:]))


def soft_overlap(first: Tensor, second: Tensor) -> Tensor:
    r"""Dice of two soft predictions, :math:`2 \sum p p' / \sum (p^2 + p'^2)`: exactly 1 if they are equal.

    The sums run over images and voxels; the result is the mean over the foreground classes.

    Args:
        first: probabilities, ``(B, C, *S)``, float32, class 0 the background.
        second: the same.

    Returns:
        scalar in [0, 1].
    """
    first, second = (p[:, 1:].movedim(1, 0).flatten(1) for p in (first, second))  # (C - 1, N)
    sizes = (first.square() + second.square()).sum(dim=1)
    shared = 2.0 * (first * second).sum(dim=1)
    return torch.where(sizes > 0, shared / sizes.clamp_min(torch.finfo(sizes.dtype).tiny), 1.0).mean()


def _quantizer(network: VQNetwork) -> VectorQuantizer:
    if network.quantizer is None:
        raise ValueError("the reliance on codes needs a network with quantiser, got one without (num_embeddings None).")
    return network.quantizer
