"""What the rest of a configuration reads of an id, such as ``@plan.patch_size`` of ``plan``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from monai.bundle import ConfigComponent, ConfigExpression, ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

__all__ = ["check_parts"]

_READ = re.compile(
    rf"{ReferenceResolver.ref}(?P<id>\w+(?:{ReferenceResolver.sep}\w+)*)(?:\.(?P<attribute>[^\W\d]\w*))?"
)
_SHOWN = 4


def check_parts(values: Mapping[str, Any], config: Any) -> list[str]:
    """What values lack of what the configuration reads of their ids, one sentence each.

    Expressions and references are skipped, and attributes of components: they are known when these are built. None may
    stand for an id whose parts are read only if there is one, as in ``$@foundation.grid if @foundation else None``.

    Args:
        values: by id.
        config: the whole configuration, with these values in it.
    """
    texts = [ReferenceResolver.normalize_id(text) for text in _texts(config)]
    found = []
    for id_, value in values.items():
        if isinstance(value, str) and value.startswith((ConfigExpression.prefix, ReferenceResolver.ref)):
            continue
        reads = (read for text in texts for read in _reads_of(id_, text, guarded=value is None))
        lacking = list(dict.fromkeys(part for read in reads if (part := _first_lacking(value, read))))
        if lacking:
            found.append(_refusal(id_.replace(ReferenceResolver.sep, "#"), lacking, value))
    return found


def _texts(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        if ConfigExpression.is_expression(config) or config.startswith(ReferenceResolver.ref):
            yield config
    elif isinstance(config, dict | list):
        for part in config.values() if isinstance(config, dict) else config:
            yield from _texts(part)


def _reads_of(id_: str, text: str, guarded: bool) -> list[tuple[list[str], str]]:
    """Steps down from an id to an entry, and the attribute of that, of each place where a text reads such a part."""
    reads = [match.group("id", "attribute") for match in _READ.finditer(text)]
    if guarded and (id_, None) in reads:
        return []
    below = f"{id_}{ReferenceResolver.sep}"
    return [
        (full.removeprefix(id_).split(ReferenceResolver.sep)[1:], attribute or "")
        for full, attribute in reads
        if full.startswith(below) or (full == id_ and attribute)
    ]


def _first_lacking(value: Any, read: tuple[list[str], str]) -> str:
    """Where a read fails, as it is shown; empty if it does not, or only building tells."""
    steps, attribute = read
    parser = ConfigParser(value)
    for count in range(1, len(steps) + 1):
        if ReferenceResolver.sep.join(steps[:count]) not in parser:
            return "#".join(steps[:count])
    is_known = bool(steps) or ConfigComponent.is_instantiable(value) or hasattr(value, attribute)
    return "" if is_known else attribute


def _refusal(shown: str, lacking: list[str], value: Any) -> str:
    more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    return (
        f"--{shown}: expected something with {', '.join(lacking[:_SHOWN])}{more}, which the configuration reads of it, "
        f"found {value!r}. Leave --{shown} out, or give a component or an expression that has them."
    )
