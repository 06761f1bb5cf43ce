"""Configuration files that do not go together: one undoes parts of another, or gives its settings other values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

__all__ = ["overruled_settings", "undone_parts"]


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
        content = ConfigParser.load_config_file(file)
        keys = list(_keys(content))
        for key in keys:
            undone = [part for part in parts if part.startswith(f"{key}{ReferenceResolver.sep}")]
            sentence = _of_the_record if _is_of_the_record(content.get(key)) else _sentence
            found += [sentence(file, key, parts[part], part) for part in undone[:1]]
        parts |= {key: file for key in keys if ReferenceResolver.sep in key}
    return found


def overruled_settings(files: Sequence[Any]) -> list[str]:
    """What later overlays give another value than earlier ones, one sentence for each pair; empty if nothing.

    Two methods given at once, such as ``ua_mt.json`` and ``unimatch.json``, make neither of them.

    Args:
        files: paths of the configuration files, in the order given; the first one is what the others lie over.
    """
    found = []
    contents = {file: dict(ConfigParser.load_config_file(file)) for file in files[1:]}
    for number, (earlier, first) in enumerate(contents.items()):
        for later, second in list(contents.items())[number + 1 :]:
            keys = [key for key in first if key[0] != "+" and second.get(key, first[key]) != first[key]]
            if keys:
                names = PurePath(str(earlier)).name, PurePath(str(later)).name
                found.append(
                    f"{names[0]} and {names[1]} give other values for {', '.join(keys)}: those of {names[1]}, the "
                    "later one, hold. Leave one out if they are two methods."
                )
    return found


def _keys(content: Mapping[str, Any]) -> Iterator[str]:
    """Ids that a file sets; those with a plus are added to what is there."""
    return (ReferenceResolver.normalize_id(key) for key in content if not key.startswith("+"))


def _is_of_the_record(value: Any) -> bool:
    """Whether a part is made as the trained model's record says, as an evaluation's network is."""
    return isinstance(value, Mapping) and value.get("record") == "@model_record"


def _of_the_record(file: Any, key: str, earlier: Any, part: str) -> str:
    undone = part.replace(ReferenceResolver.sep, "#")
    names = PurePath(str(file)).name, PurePath(str(earlier)).name
    return (
        f"{names[0]} takes {key} from the model.json of the training, whatever {names[1]} sets as {undone}: leave "
        f"{names[1]} out."
    )


def _sentence(file: Any, key: str, earlier: Any, part: str) -> str:
    shown, undone = (text.replace(ReferenceResolver.sep, "#") for text in (key, part))
    names = PurePath(str(file)).name, PurePath(str(earlier)).name
    return f"{names[0]} sets all of {shown}, and would undo {undone} of {names[1]} before it. Give {names[0]} first."
