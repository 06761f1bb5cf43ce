"""Which patients to label first: those nearest the centres of k-means, one a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from ..errors import DataError

__all__ = ["ColdStart", "choose_rows", "standardize"]

_RESTARTS = 20
_MOST_ROUNDS = 100


class ColdStart(NamedTuple):
    """What is to be labelled, and what each stands for.

    Attributes:
        chosen: rows to label, that of the largest cluster first.
        clusters: of every row, ``(N,)``: positions in ``chosen``, followed by those in the rows labelled already.
        distances: of every row from its cluster's centre, ``(N,)``.
    """

    chosen: list[int]
    clusters: np.ndarray
    distances: np.ndarray


def standardize(features: np.ndarray) -> np.ndarray:
    """Features ``(N, F)`` with mean 0 and standard deviation 1 over the rows; constant ones become 0."""
    centered = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    deviation = centered.std(axis=0)
    constant = deviation <= 1e-9 * np.abs(features).max(axis=0, initial=0)
    return np.where(constant, 0.0, centered / np.where(constant, 1.0, deviation))


def choose_rows(
    features: np.ndarray,
    count: int,
    labeled: Sequence[int] = (),
    seed: int = 0,
    eligible: Sequence[int] | None = None,
) -> ColdStart:
    """Divide rows by k-means and choose the one nearest each centre.

    This is ALPS of MedCAL-Bench (https://arxiv.org/abs/2508.03441): as many clusters as there are labels to draw. Rows
    labelled already are further centres, which do not move, so that no scan is chosen for what they show.

    Args:
        features: standardised, ``(N, F)``.
        count: rows to choose.
        labeled: rows that are labelled already.
        seed: seed of the first centres (k-means++; the best of 20 starts is taken).
        eligible: the rows that are divided and may be chosen; None takes all that are not labelled.

    Raises:
        DataError: ``count`` is not between 1 and the number of eligible rows.
    """
    free = sorted(set(range(len(features)) if eligible is None else eligible) - set(labeled))
    if not 1 <= count <= len(free):
        raise DataError(f"--count: expected 1 to {len(free)} (patients without labels), found {count}.")
    fixed = features[list(labeled)]
    rng = np.random.default_rng(seed)
    divided = features[[*free, *labeled]]
    fits = [_fit(divided, features[free], fixed, count, rng) for _ in range(_RESTARTS)]
    centers, _ = min(fits, key=lambda fit: fit[1])
    distances = cdist(features, np.concatenate([centers, fixed]))
    nearest = distances.argmin(axis=1)
    order = np.argsort(-np.bincount(nearest, minlength=count)[:count], kind="stable")
    chosen = _nearest_each(distances, nearest, free, order)
    place = np.concatenate([np.argsort(order), np.arange(count, count + len(fixed))])
    return ColdStart(chosen, place[nearest], distances.min(axis=1))


def _fit(
    features: np.ndarray, free: np.ndarray, fixed: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Lloyd's algorithm with fixed centres, which SciPy's lacks: the free centres, and the sum of squared distances."""
    centers = _first_centers(free, fixed, count, rng)
    for _ in range(_MOST_ROUNDS):
        nearest = cdist(features, np.concatenate([centers, fixed])).argmin(axis=1)
        moved = np.stack(
            [features[nearest == k].mean(axis=0) if (nearest == k).any() else centers[k] for k in range(count)]
        )
        if np.array_equal(moved, centers):
            break
        centers = moved
    return centers, float((cdist(features, np.concatenate([centers, fixed])).min(axis=1) ** 2).sum())


def _first_centers(free: np.ndarray, fixed: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++: each next centre is drawn in proportion to the squared distance from those there are."""
    centers = list(fixed) or [free[rng.integers(len(free))]]
    while len(centers) < len(fixed) + count:
        weights = cdist(free, np.stack(centers)).min(axis=1) ** 2
        total = weights.sum()
        centers.append(free[rng.choice(len(free), p=weights / total if total > 0 else None)])
    return np.stack(centers[len(fixed) :])


def _nearest_each(distances: np.ndarray, nearest: np.ndarray, free: Sequence[int], order: np.ndarray) -> list[int]:
    """For each centre the nearest row of its cluster; of an empty cluster, among equal scans, the nearest row left."""
    chosen: list[int] = []
    for center in order:
        left = [row for row in free if row not in chosen]
        members = [row for row in left if nearest[row] == center] or left
        chosen.append(min(members, key=lambda row: distances[row, center]))
    return chosen
