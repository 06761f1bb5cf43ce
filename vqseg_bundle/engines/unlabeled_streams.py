"""The versions of the unlabelled batch that the student sees in one step, and their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from monai.utils.enums import CommonKeys as Keys

__all__ = ["STRONG", "STRONG_2", "UnlabeledStream", "parse_streams"]

#: Batch key of the strong view; the weak view, with the same geometry, is MONAI's "image".
STRONG = "strong"
#: Batch key of a second strong view of the same weak view.
STRONG_2 = "strong_2"

_VIEWS = (STRONG, STRONG_2, str(Keys.IMAGE))


@dataclass(frozen=True)
class UnlabeledStream:
    """One version of the unlabelled batch.

    The default is VQ-Seg's only stream. UniMatch (https://arxiv.org/abs/2208.09910) has three: two strong views, each
    mixed with its own boxes, and the weak view with perturbed features.

    Args:
        view: batch key of the view: "strong", "strong_2" or "image" (the weak view).
        perturbed: whether the training module perturbs its features.
        mixed: whether the trainer's mixer, if any, mixes it.
        weight: positive factor of its loss.

    Raises:
        ValueError: an argument is not one of these values.
    """

    view: str = STRONG
    perturbed: bool = True
    mixed: bool = True
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.view not in _VIEWS:
            raise ValueError(f"view of an unlabelled stream must be one of {', '.join(_VIEWS)}, got {self.view!r}.")
        for name in ("perturbed", "mixed"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} of an unlabelled stream must be true or false, got {getattr(self, name)!r}.")
        is_number = isinstance(self.weight, int | float) and not isinstance(self.weight, bool)
        if not (is_number and 0.0 < self.weight < math.inf):
            raise ValueError(f"weight of an unlabelled stream must be a positive number, got {self.weight!r}.")


def parse_streams(streams: Sequence[UnlabeledStream | Mapping[str, Any]]) -> tuple[UnlabeledStream, ...]:
    """Unlabelled streams from a configuration.

    Args:
        streams: at least one, each a stream or a mapping of its arguments.

    Raises:
        ValueError: the list is empty, an entry is not a mapping or has an unknown key, or a value is refused.
    """
    if not isinstance(streams, list | tuple) or len(streams) == 0:
        raise ValueError(f"unlabeled_streams must be a list of at least one stream, got {streams!r}.")
    return tuple(stream if isinstance(stream, UnlabeledStream) else _parse(stream) for stream in streams)


def _parse(stream: Mapping[str, Any]) -> UnlabeledStream:
    known = [field.name for field in fields(UnlabeledStream)]
    if not isinstance(stream, Mapping) or not set(stream) <= set(known):
        raise ValueError(
            f"each of unlabeled_streams must be a mapping with some of {', '.join(known)}, got {stream!r}."
        )
    return UnlabeledStream(**stream)
