"""Warnings where images are mirrored although names of classes tell left from right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["mirrored_copies", "mirrored_sides"]

# not \b, as kidney_left has none before the side
_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)


def mirrored_sides(labels: Iterable[str], probability: float) -> list[str]:
    """A warning where a training mirrors its views; none if it does not, or no class names a side.

    Args:
        labels: names of the classes.
        probability: of mirroring, ``mirroring``.
    """
    sided = _sided(labels)
    if not probability or not sided:
        return []
    return [
        f"mirroring {probability:g}: {sided} name a side, which mirrored views exchange; harmless if "
        "shape or surroundings tell the structure, as of the heart's ventricles, otherwise train with mirroring 0."
    ]


def mirrored_copies(labels: Iterable[str], axes: Sequence[int]) -> list[str]:
    """A warning where predictions of mirrored copies are averaged; none without axes, or if no class names a side.

    Args:
        labels: names of the classes.
        axes: along which the copies are mirrored, ``mirror_axes``.
    """
    sided = _sided(labels)
    if not axes or not sided:
        return []
    return [
        f"mirror_axes {list(axes)}: {sided} name a side, which copies mirrored from left to right exchange; harmless "
        "if the model was trained with mirroring, otherwise leave that axis out."
    ]


def _sided(labels: Iterable[str]) -> str:
    return ", ".join(name for name in labels if _SIDE.search(name))
