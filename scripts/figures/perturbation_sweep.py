"""The effect of QPM and dropout at growing strength: in theory, on the distribution of features; in practice, on a
case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.metrics import compute_dice
from torch import Tensor
from tqdm import tqdm

from scripts.figures.trained_network import Case, TrainedNetwork
from vqseg_bundle.engines import CodebookInferer
from vqseg_bundle.layers import (
    FeatureDropout,
    Perturbation,
    QuantizedPerturbation,
    dropout_kl_divergence,
    qpm_kl_divergence,
)
from vqseg_bundle.networks import VQSegTrainingModule

__all__ = ["METHODS", "Perturbed", "mean_dice", "perturbed_prediction", "radius_curves", "sweep"]

#: names of the two perturbations, as in the figure
QPM, DROPOUT = "QPM", "dropout"
METHODS = (QPM, DROPOUT)


class Perturbed(NamedTuple):
    """A case under one perturbation.

    Attributes:
        method: one of :data:`METHODS`.
        strength: the paper's eps, or the dropout rate.
        prediction: class indices ``(*S)`` of the first draw, int64.
        dice: Dice of each draw, mean over the foreground classes.
    """

    method: str
    strength: float
    prediction: Tensor
    dice: list[float]


def radius_curves(
    codebooks: Mapping[str, Tensor], strengths: Sequence[float], temperature: float | str
) -> dict[str, list[float]]:
    """KL radius of dropout and of the QPM in each codebook.

    Args:
        codebooks: ``(K, D)`` by name.
        strengths: dropout rates and eps, in [0, 1).
        temperature: of the QPM, or "auto".

    Returns:
        nats at each strength, by "dropout" and "QPM, <name>".
    """
    curves = {DROPOUT: [dropout_kl_divergence(strength) for strength in strengths]}
    for name, codebook in codebooks.items():
        bar = tqdm(strengths, desc=f"radius, {name}", unit="strength", leave=False, disable=None)
        curves[f"{QPM}, {name}"] = [qpm_kl_divergence(codebook, strength, temperature).item() for strength in bar]
    return curves


@torch.no_grad()
def perturbed_prediction(trained: TrainedNetwork, case: Case, perturbation: Perturbation, seed: int) -> Tensor:
    """Segment a volume with its post-VQ features perturbed as in training.

    Returns:
        class indices ``(*S)``, int64.
    """
    module = VQSegTrainingModule(trained.network, perturbation).eval()
    generator = torch.Generator().manual_seed(seed)

    def logits(windows: Tensor) -> Tensor:
        return module(windows[:0], windows, generator=generator).unlabeled_logits

    # the inner inferer divides the volume; the training module projects the codebook itself
    inferer = trained.inferer.inferer if isinstance(trained.inferer, CodebookInferer) else trained.inferer
    return inferer(case.image[None], logits)[0].argmax(dim=0)


def sweep(
    trained: TrainedNetwork,
    case: Case,
    strengths: Sequence[float],
    moves: QuantizedPerturbation,
    draws: int,
    seed: int,
    dropout_mode: str = "channel",
) -> list[Perturbed]:
    """Segment a case under both perturbations at every strength.

    Args:
        trained: the network.
        case: the volume; without a label Dice is the agreement with the unperturbed prediction.
        strengths: in [0, 1).
        moves: the QPM, whose strength is not read.
        draws: number of draws of each; one for strength 0.
        seed: seed of the first draw; later draws increment it.
        dropout_mode: "channel" or "element".

    Returns:
        by method, then by strength.
    """
    classes = len(trained.labels)
    clean = perturbed_prediction(trained, case, QuantizedPerturbation(0.0), seed)
    reference = clean if case.label is None else case.label
    results = []
    runs = [(method, strength) for method in METHODS for strength in strengths]
    for method, strength in tqdm(runs, desc="predictions", unit="strength", disable=None):
        perturbation: Perturbation = FeatureDropout(strength, dropout_mode)
        if method == QPM:
            perturbation = QuantizedPerturbation(
                strength, moves.temperature, moves.mode, moves.distance, moves.neighbors
            )
        seeds = range(seed, seed + (draws if strength > 0 else 1))
        predictions = [perturbed_prediction(trained, case, perturbation, draw) for draw in seeds]
        dice = [mean_dice(prediction, reference, classes) for prediction in predictions]
        results.append(Perturbed(method, strength, predictions[0], dice))
    return results


def mean_dice(prediction: Tensor, reference: Tensor, classes: int) -> float:
    """Mean Dice over the foreground classes in the reference; NaN if it has none.

    Args:
        prediction: class indices ``(*S)``.
        reference: the same.
        classes: their number, background included.
    """
    dice = compute_dice(prediction[None, None], reference[None, None], include_background=False, num_classes=classes)
    found = dice[~dice.isnan()]
    return float(np.nan) if len(found) == 0 else found.mean().item()
