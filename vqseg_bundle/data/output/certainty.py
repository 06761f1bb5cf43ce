"""How sure a model is of a scan, as a whole and of each voxel."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy.ndimage import binary_dilation
from scipy.special import entr

__all__ = ["MeasureCertaintyd", "foreground_uncertainty", "soft_dice_confidence"]

_SHELL = 2  # voxels around a structure that belong to it: where its border is in doubt


def foreground_uncertainty(probabilities: np.ndarray) -> float:
    r"""Mean entropy of a prediction where it says structures are, and in a thin shell around them.

    .. math:: u = \frac{1}{|P|} \sum_{c \in P} \frac{1}{|R_c|} \sum_{v \in R_c} \sum_k -p_{vk} \ln p_{vk}

    :math:`R_c` are the voxels whose most probable class is c and those within 2 voxels of them, P the foreground
    classes that are predicted at all. The entropy of the whole image would rank by the size of the structures
    (nnActive, TMLR 2025). A scan without any counts as wholly unsure, :math:`\ln C`.

    Args:
        probabilities: ``(C, X, Y, Z)``.

    Returns:
        from 0 to :math:`\ln C`, nats.
    """
    classes = probabilities.argmax(axis=0)
    means = []
    for index in np.unique(classes[classes > 0]):
        places = np.argwhere(classes == index)
        first, last = places.min(axis=0) - _SHELL, places.max(axis=0) + _SHELL + 1
        box = tuple(slice(max(0, start), stop) for start, stop in zip(first, last, strict=True))
        entropy = entr(np.stack([each[box] for each in probabilities])).sum(axis=0)
        means.append(entropy[binary_dilation(classes[box] == index, iterations=_SHELL)].mean())
    return float(np.mean(means)) if means else math.log(len(probabilities))


def soft_dice_confidence(probabilities: np.ndarray) -> float:
    r"""The Dice that a prediction expects of itself (Soft Dice Confidence, arXiv 2402.10665), mean over classes.

    .. math:: s = \frac{1}{|P|} \sum_{c \in P} \frac{2 \sum_{v \in R_c} p_{vc}}{|R_c| + \sum_v p_{vc}}

    :math:`R_c` are the voxels whose most probable class is c, P the foreground classes that are predicted at all.

    Args:
        probabilities: ``(C, X, Y, Z)``.

    Returns:
        from 0 to 1; NaN if no foreground is predicted.
    """
    classes = probabilities.argmax(axis=0)
    each = []
    for index in np.unique(classes[classes > 0]):
        own, region = probabilities[index], classes == index
        each.append(2 * own[region].sum(dtype=np.float64) / (region.sum() + own.sum(dtype=np.float64)))
    return float(np.mean(each)) if each else math.nan


class MeasureCertaintyd(MapTransform):
    """Measure the certainty of a prediction from its logits ``(C, *S)``, before they become a class map.

    It adds "soft_dice" (:func:`soft_dice_confidence`), which tells how good a prediction may be, and, if wanted,
    "uncertainty" (:func:`foreground_uncertainty`), which tells what to label next, and "confidence", the largest
    probability of each voxel and its class, ``(2, *S)`` float32 on the CPU.

    Args:
        keys: of the logits; one key.
        uncertainty: whether to add "uncertainty".
        confidence: whether to add "confidence".
    """

    def __init__(self, keys: KeysCollection, uncertainty: bool = False, confidence: bool = False) -> None:
        super().__init__(keys)
        self.uncertainty = uncertainty
        self.confidence = confidence

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with what was measured."""
        item = dict(data)
        for key in self.key_iterator(item):
            probabilities = torch.as_tensor(item[key]).float().softmax(dim=0)
            shares = probabilities.cpu().numpy()
            item["soft_dice"] = soft_dice_confidence(shares)
            if self.uncertainty:
                item["uncertainty"] = foreground_uncertainty(shares)
            if self.confidence:
                item["confidence"] = torch.stack([each.float() for each in probabilities.max(dim=0)]).cpu()
        return item
