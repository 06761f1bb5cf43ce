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

__all__ = ["MeasureCertaintyd", "foreground_uncertainty"]

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


class MeasureCertaintyd(MapTransform):
    """Measure the certainty of a prediction from its logits ``(C, *S)``, before they become a class map.

    It adds "uncertainty", that of the whole (:func:`foreground_uncertainty`), and, if wanted, "confidence", the largest
    probability of each voxel and its class, ``(2, *S)`` float32 on the CPU.

    Args:
        keys: of the logits; one key.
        confidence: whether to add "confidence".
    """

    def __init__(self, keys: KeysCollection, confidence: bool = False) -> None:
        super().__init__(keys)
        self.confidence = confidence

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with what was measured."""
        item = dict(data)
        for key in self.key_iterator(item):
            probabilities = torch.as_tensor(item[key]).float().softmax(dim=0)
            item["uncertainty"] = foreground_uncertainty(probabilities.cpu().numpy())
            if self.confidence:
                item["confidence"] = torch.stack([each.float() for each in probabilities.max(dim=0)]).cpu()
        return item
