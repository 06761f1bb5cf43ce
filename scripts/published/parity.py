"""Comparison of a converted checkpoint with the published code on the same images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from scripts.benchmark.reference_code import published_network
from scripts.published.published_checkpoint import convert, find_encoder, read_published

__all__ = ["IMAGE_SIZES", "Comparison", "compare", "nearer_codes", "random_checkpoint"]

#: the sizes of its training, its validation and DINOv2, and a non-square one
IMAGE_SIZES = ((224, 224), (504, 504), (518, 518), (224, 280))


class Comparison(NamedTuple):
    """Both networks on images of one size.

    Attributes:
        size: size of the images.
        tokens: number of tokens.
        distinct_codes: number of codes used by the published network.
        differing_codes: number of tokens with another code in ours.
        nearer_codes: number of these that are nearer to the published network's features in float64, so that the
            published search was wrong by rounding.
        largest_logit: largest absolute logit of the published network.
        largest_difference: largest absolute difference of the logits.
    """

    size: tuple[int, int]
    tokens: int
    distinct_codes: int
    differing_codes: int
    nearer_codes: int
    largest_logit: float
    largest_difference: float

    @property
    def relative_difference(self) -> float:
        """The largest difference in units of the largest logit."""
        return self.largest_difference / self.largest_logit


def random_checkpoint(reference_code: str, path: Path, classes: int = 4, seed: int = 0) -> None:
    """Save the published code's small network with random weights, like its train.py.

    All parameters are random, including those that a fresh network sets to 0 or 1. The codewords are as long as the
    features, like trained ones: much shorter ones would all be about equally far, and rounding would decide.

    Args:
        reference_code: a checkout of the published code.
        path: the file to write.
        classes: number of classes.
        seed: seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = published_network(reference_code, classes)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
            quantizer: Any = network.get_submodule("model.vq")
            length = quantizer.embedding_proj(quantizer.codebook.weight).norm(dim=1).mean()
            for parameter in quantizer.embedding_proj.parameters():
                parameter.mul_(quantizer.code_dim**0.5 / length)
    torch.save(network.state_dict(), path)


def nearer_codes(features: Tensor, codewords: Tensor, ours: Tensor, theirs: Tensor) -> int:
    """Number of tokens for which our code is strictly nearer than theirs, in float64.

    Args:
        features: the tokens' features, ``(N, D)``.
        codewords: ``(K, D)``.
        ours: indices ``(N,)``.
        theirs: indices ``(N,)``.
    """
    tokens, words = features.double(), codewords.double()
    distances = [(tokens - words[indices]).square().sum(dim=1) for indices in (ours, theirs)]
    return int((distances[0] < distances[1]).sum())


def compare(reference_code: str, checkpoint: Path | None = None, images: int = 2, seed: int = 0) -> list[Comparison]:
    """Run the published network and its conversion on the same random images, in float32 on the CPU.

    Args:
        reference_code: a checkout of the published code.
        checkpoint: a file of its train.py; None uses :func:`random_checkpoint`.
        images: number of images of each size.
        seed: seed of the images and the random weights.

    Returns:
        one comparison per size.
    """
    with tempfile.TemporaryDirectory() as folder:
        if checkpoint is None:
            checkpoint = Path(folder) / "random.pth"
            random_checkpoint(reference_code, checkpoint, seed=seed)
        state = read_published(checkpoint)
    published = _published(reference_code, state)
    converted = convert(state)
    codewords = converted.get_submodule("quantizer.codebook").get_buffer("basis")
    generator = torch.Generator().manual_seed(seed)
    mean = torch.tensor(IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_DEFAULT_STD).view(1, 3, 1, 1)
    comparisons = []
    for size in IMAGE_SIZES:
        grey = torch.rand(images, 1, *size, generator=generator)
        # images that span [0, 1], like 8-bit ones divided by 255: the published code does not rescale them
        grey = (grey - grey.amin((1, 2, 3), True)) / (grey.amax((1, 2, 3), True) - grey.amin((1, 2, 3), True))
        theirs, features, their_codes = _run(published, "model.vq", lambda output: output[1], (grey - mean) / std)
        ours, _, our_codes = _run(converted, "quantizer", lambda output: output.indices, grey)
        comparisons.append(
            Comparison(
                size=size,
                tokens=len(their_codes),
                distinct_codes=len(their_codes.unique()),
                differing_codes=int((their_codes != our_codes).sum()),
                nearer_codes=nearer_codes(features.flatten(0, -2), codewords, our_codes, their_codes),
                largest_logit=theirs.abs().max().item(),
                largest_difference=(theirs - ours).abs().max().item(),
            )
        )
    return comparisons


def _published(reference_code: str, state: Mapping[str, Tensor]) -> nn.Module:
    classes = state["head.scratch.output_conv.2.weight"].shape[0]
    network = published_network(reference_code, classes, find_encoder(state).size)
    network.get_submodule("model").load_state_dict(state)
    return network.eval()


def _run(
    network: nn.Module, quantizer: str, indices: Callable[[Any], Tensor], images: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, the quantiser's input, and the codes ``(N,)``."""
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        seen.append((inputs[0], indices(output).flatten()))

    hook = network.get_submodule(quantizer).register_forward_hook(keep)
    try:
        with torch.no_grad():
            logits = network(images)
    finally:
        hook.remove()
    return logits, *seen[0]
