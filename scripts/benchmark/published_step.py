"""The published code's parts behind the bundle's interfaces, and a step with its own network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scripts.benchmark.reference_code import (
    published_entropy,
    published_network,
    published_perturbation,
    published_quantizer,
)
from vqseg_bundle.layers import Codes, VectorQuantizer, VectorQuantizerOutput, lookup

__all__ = ["PublishedPerturbation", "PublishedQuantizer", "prepare_published_step"]


class PublishedQuantizer(nn.Module):
    """The published quantiser and entropy term in place of a :class:`~vqseg_bundle.layers.VectorQuantizer`.

    The codebook is projected as often as in the published code: for the lookup of the perturbed indices, in its
    quantiser, in its QPM and in its entropy term.

    Args:
        directory: the checkout.
        replaced: the quantiser with its sizes and settings.
    """

    def __init__(self, directory: str, replaced: VectorQuantizer) -> None:
        super().__init__()
        self.published: Any = published_quantizer(directory, replaced.project_codebook().detach())
        self.commitment_cost = replaced.commitment_cost
        self.entropy_temperature = replaced.entropy_temperature
        self.directory = directory

    def project_codebook(self) -> Tensor:
        """Codewords ``(K, D)``."""
        return self.published.embedding_proj(self.published.codebook.weight)

    def forward(self, features: Tensor, codebook: Tensor | None = None) -> VectorQuantizerOutput:
        """Quantise ``(B, D, *S)``; ``codebook`` is not used, since the published code projects it again."""
        tokens = features.movedim(1, -1)
        codewords, indices = self.published(tokens)
        embedding, commitment = F.mse_loss(codewords, tokens.detach()), F.mse_loss(tokens, codewords.detach())
        entropy = features.new_zeros(())
        if self.training:
            term = published_entropy(self.directory)
            entropy = term(tokens.flatten(0, -2), self.project_codebook(), 1.0 / self.entropy_temperature)
        quantized = (tokens + (codewords - tokens).detach()).movedim(-1, 1)
        return VectorQuantizerOutput(quantized, indices, embedding + self.commitment_cost * commitment, entropy)


class PublishedPerturbation(nn.Module):
    """The published QPM as a :class:`~vqseg_bundle.layers.Perturbation`.

    Args:
        directory: the checkout.
        quantizer: the quantiser with the codebook, which is projected again.
        strength: eps.
    """

    needs_codes = True

    def __init__(self, directory: str, quantizer: PublishedQuantizer, strength: float) -> None:
        super().__init__()
        self.perturb = published_perturbation(directory, quantizer.published, strength)

    def forward(self, features: Tensor, codes: Codes, generator: torch.Generator | None = None) -> Tensor:
        """Perturb ``(B, D, *S)``; the generator is not used."""
        with torch.no_grad():
            indices = self.perturb(codes.indices.flatten(1)).view_as(codes.indices)
        return lookup(indices, codes.codebook).to(features.dtype) + (features - features.detach())


def prepare_published_step(directory: str, classes: int, size: int, device: str) -> Callable[[], None]:
    """One step of the published training on random images: 4 labelled, 4 unlabelled in two strong views.

    Args:
        directory: the checkout.
        classes: number of classes.
        size: height and width of the images, a multiple of 14.
        device: "cpu" or "cuda".
    """
    torch.manual_seed(0)
    student = published_network(directory, classes).to(device).train()
    teacher = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.996)).eval()
    optimizer = torch.optim.AdamW((each for each in student.parameters() if each.requires_grad), lr=2e-4)
    labeled, weak = torch.randn(4, 3, size, size, device=device), torch.randn(4, 3, size, size, device=device)
    strong = torch.cat((weak + 0.1, weak - 0.1))
    labels = torch.randint(classes, (4, size, size), device=device)

    def step() -> None:
        with torch.no_grad():
            confidence, pseudo = teacher(weak).softmax(dim=1).max(dim=1)
        logits, labeled_alignment, labeled_usage = student(labeled, use_pfa=True, use_usage=True)
        strong_logits, alignment, usage = student(strong, use_qpm=True, use_pfa=True, use_usage=True)
        unlabeled = F.cross_entropy(strong_logits, torch.cat((pseudo, pseudo)), reduction="none")
        kept = torch.cat((confidence, confidence)) >= 0.95
        segmentation = 2.5 * F.cross_entropy(logits, labels) + 0.5 * (unlabeled * kept).mean()
        loss = segmentation + 0.1 * (labeled_alignment + alignment + labeled_usage + usage)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.update_parameters(student)

    return step
