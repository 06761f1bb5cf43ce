"""Names of channels: which ones mean the same sequence of MRI, whoever wrote them.

nnU-Net's ``dataset.json`` has what its author called them (T1ce, Flair, t1gd), BraTS's files have endings of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["SEQUENCES", "channel_key", "channels_differ"]

#: of BraTS, in its order, each with its other names: small letters, without spaces and hyphens
SEQUENCES = {
    "FLAIR": ("flair", "t2f", "t2flair"),
    "T1": ("t1", "t1n", "t1w"),
    "T1 with contrast": ("t1withcontrast", "t1ce", "t1c", "t1gd"),
    "T2": ("t2", "t2w"),
}
_KNOWN = {other: sequence for sequence, others in SEQUENCES.items() for other in others}
_BETWEEN = re.compile(r"[\s_-]+")


def channel_key(name: str) -> str:
    """What a channel's name means: a key of :data:`SEQUENCES`; of another name its letters, made small.

    Args:
        name: as in ``channel_names``.
    """
    folded = _BETWEEN.sub("", name.casefold())
    return _KNOWN.get(folded, folded)


def channels_differ(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether two lists of names have different sequences at one place; names that are none may mean anything.

    Args:
        first: names of channels, in order.
        second: those to compare with.
    """
    pairs = ((channel_key(one), channel_key(other)) for one, other in zip(first, second, strict=False))
    return any(one != other and {one, other} <= SEQUENCES.keys() for one, other in pairs)
