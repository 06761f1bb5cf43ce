"""How unsure a model is of a scan, and which scans it is least sure of: for the next ones to label."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_dilation
from scipy.special import entr

__all__ = ["foreground_uncertainty", "least_sure"]

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


def least_sure(uncertainties: Sequence[float], count: int) -> list[int]:
    """Rows of the third with the largest uncertainty, at least ``count``, that of the largest first."""
    order = np.argsort(-np.asarray(uncertainties), kind="stable")
    return [int(row) for row in order[: max(count, math.ceil(len(order) / 3))]]
