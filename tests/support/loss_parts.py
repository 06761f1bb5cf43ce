"""Logits and probabilities of two classes, for losses by hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG2 = math.log(2.0)


def logits_of(*probabilities: float) -> Tensor:
    """Logits ``(1, 2, 1, n)`` whose softmax gives class 1 the given probabilities."""
    share = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack((torch.log1p(-share), share.log())).view(1, 2, 1, -1).float()


def opinion_of(*class_1: float) -> Tensor:
    """Probabilities ``(1, 2, 1, n)`` of a pseudo-labeller."""
    share = torch.tensor(class_1)
    return torch.stack((1 - share, share)).view(1, 2, 1, -1)
