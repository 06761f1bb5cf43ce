"""What a mistyped id of a configuration may have been meant to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

__all__ = ["near_ids_text"]


def near_ids_text(shown: str, config: Mapping[str, Any], more: Sequence[str] = ()) -> str:
    """A sentence with the ids most like one that is unknown, else with all of the first level.

    Args:
        shown: the unknown id, with ``#`` between its parts.
        config: the configuration's known content.
        more: further ids that may be meant, such as the arguments of a component.
    """
    known: dict[str, list[str]] = {}
    for candidate in sorted(dict.fromkeys([*more, *_ids(config)]), key=lambda item: item.count("#")):
        known.setdefault(candidate.rpartition("#")[2], []).append(candidate)
    near = [item for name in get_close_matches(shown.rpartition("#")[2], known, n=3) for item in known[name]]
    if near:
        return f"Did you mean {' or '.join(near[:4])}?"
    return f"Known: {', '.join(sorted(item for item in _ids(config) if '#' not in item))}."


def _ids(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        if not key.startswith("_"):
            yield f"{prefix}{key}"
            if isinstance(value, Mapping):
                yield from _ids(value, f"{prefix}{key}#")
