"""The order of configuration files: what sets a whole component comes before what changes a part of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

__all__ = ["undone_parts"]


def undone_parts(files: Sequence[Any]) -> list[str]:
    """What later overlays undo of earlier ones, one sentence each; empty if nothing.

    MONAI merges files key by key: an overlay that sets ``network_def`` replaces it whole, with all that an overlay
    before it has set of it (``network_def#dropout``). Given the other way round, both count.

    Args:
        files: paths of the configuration files, in the order given; the first one is what the others lie over.
    """
    found = []
    parts: dict[str, Any] = {}
    for file in files[1:]:
        keys = list(_keys(ConfigParser.load_config_file(file)))
        for key in keys:
            undone = [part for part in parts if part.startswith(f"{key}{ReferenceResolver.sep}")]
            found += [_sentence(file, key, parts[part], part) for part in undone[:1]]
        parts |= {key: file for key in keys if ReferenceResolver.sep in key}
    return found


def _keys(content: Mapping[str, Any]) -> Iterator[str]:
    """Ids that a file sets; those with a plus are added to what is there."""
    return (ReferenceResolver.normalize_id(key) for key in content if not key.startswith("+"))


def _sentence(file: Any, key: str, earlier: Any, part: str) -> str:
    shown, undone = (text.replace(ReferenceResolver.sep, "#") for text in (key, part))
    names = PurePath(str(file)).name, PurePath(str(earlier)).name
    return f"{names[0]} sets all of {shown}, and would undo {undone} of {names[1]} before it. Give {names[0]} first."
