"""How often the QPM moves a token to a code of its own class, in a case with a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from scripts.figures.trained_network import Case, TrainedNetwork
from vqseg_bundle.layers import QuantizedPerturbation

__all__ = ["KeptClass", "kept_class"]


class KeptClass(NamedTuple):
    """Share of moved tokens whose new code is of their class.

    Attributes:
        all_tokens: of all tokens.
        foreground: of those with a structure at their centre.
        all_random: of all tokens, if the new code were any with the same probability.
        foreground_random: likewise, of those with a structure at their centre.
    """

    all_tokens: float
    foreground: float
    all_random: float
    foreground_random: float


@torch.no_grad()
def kept_class(trained: TrainedNetwork, case: Case, perturbation: QuantizedPerturbation, seed: int) -> KeptClass:
    """Share of the moves that keep the class, every token of the case moved once.

    A token's class is the label at its centre, a code's the one that most of its tokens in this case have; a code that
    no token of the case has belongs to no class.

    Args:
        trained: the network.
        case: the volume, with a label of at least one structure.
        perturbation: its strength is not read.
        seed: of the draws.

    Raises:
        ValueError: the case has no label, or the label no structure.
    """
    if case.label is None or not (case.label > 0).any():
        raise ValueError(f"{case.name}: the share of moves that keep the class needs a label with a structure.")
    images, labels = case.image[None], case.label[None]
    if len(trained.network.stride) == 2:  # slices as a batch
        images, labels = images[0].movedim(-1, 0), labels[0].movedim(-1, 0)
    codebook = trained.quantizer.project_codebook()
    indices = trained.quantizer(trained.network.encode(images).features, codebook).indices
    every = QuantizedPerturbation(
        1.0, perturbation.temperature, perturbation.mode, perturbation.distance, perturbation.neighbors
    )
    moved = every.perturb_indices(indices, codebook, torch.Generator().manual_seed(seed)).flatten()
    classes = _token_classes(labels, indices, trained.network.stride).flatten()
    uses = torch.zeros(len(codebook), len(trained.labels))
    uses.index_put_((indices.flatten(), classes), torch.ones(len(classes)), accumulate=True)
    code_class = torch.where(uses.sum(dim=1) > 0, uses.argmax(dim=1), -1)
    kept = (code_class[moved] == classes).float()
    random = torch.stack([(code_class == index).float().mean() for index in range(len(trained.labels))])[classes]
    inside = classes > 0
    return KeptClass(*(part.mean().item() for part in (kept, kept[inside], random, random[inside])))


def _token_classes(labels: Tensor, indices: Tensor, stride: Sequence[int]) -> Tensor:
    """Class at each token's centre; like ``indices``."""
    padding: list[int] = []
    for tokens, step, size in zip(indices.shape[1:], stride, labels.shape[1:], strict=True):
        padding = [0, tokens * step - size, *padding]  # the network pads at the far ends
    padded = F.pad(labels, padding)
    return F.interpolate(padded[:, None].float(), size=list(indices.shape[1:]), mode="nearest-exact")[:, 0].long()
