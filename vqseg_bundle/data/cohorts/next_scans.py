"""Which scans a model is least sure of: among them the next ones to label are chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["least_sure"]


def least_sure(uncertainties: Sequence[float], count: int) -> list[int]:
    """Rows of the third with the largest uncertainty, at least ``count``, that of the largest first."""
    order = np.argsort(-np.asarray(uncertainties), kind="stable")
    return [int(row) for row in order[: max(count, math.ceil(len(order) / 3))]]
