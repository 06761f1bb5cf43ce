"""Whether plain values suit the annotations of the components that take them, such as ``"optimizer": "@optimizer"``."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from pydoc import ErrorDuringImport, locate
from typing import Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from monai.bundle import ConfigComponent, ConfigExpression, ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

from vqseg_bundle.bundle.settings.setting_table import has_setting

__all__ = ["check_arguments"]

_WORDS: Mapping[Any, str] = {
    type(None): "none",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Callable: "a function",
}


def check_arguments(values: Mapping[str, tuple[Any, Any]], parser: ConfigParser) -> list[str]:
    """What is wrong with plain values in place of what is built, such as an optimiser, one sentence each.

    A component that takes the id as a whole, ``"@id"``, is asked for the annotation of that argument, as is the
    component of which the id is an argument. What is plain throughout or planned is a setting, and its component says
    more about it; :mod:`setting_table` has further ones. Libraries accept more than they say: None where it is the
    default, and texts.

    Args:
        values: by id the value in the configuration files and the one that is used, which is skipped unless it is
            plain: components, expressions and references give what is known only when they are built.
        parser: the configuration with the latter in it, not yet parsed.
    """
    plain = {
        id_: value
        for id_, (usual, value) in values.items()
        if _is_plain(value) and not (_is_setting(usual) or has_setting(id_))
    }
    refusals: dict[str, str] = {}
    for component, id_, argument in _takers(parser.get(), plain) if plain else ():
        target = _target(component, parser)
        hint = _hints(target).get(argument, Any)
        if id_ not in refusals and not _suits(plain[id_], hint) and not _is_taken(plain[id_], target, argument):
            expected = f"{_in_words(hint)}, which {target.__name__} takes as {argument}"
            refusals[id_] = _refusal(id_.replace(ReferenceResolver.sep, "#"), expected, plain[id_])
    return list(refusals.values())


def _refusal(shown: str, expected: str, value: Any) -> str:
    found = "none" if value is None else repr(value)
    rest = f"Leave --{shown} out, or give a component or an expression that has it."
    return f"--{shown}: expected {expected}, found {found}. {rest}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return not ConfigExpression.is_expression(value) and not value.startswith(ReferenceResolver.ref)
    return not ConfigComponent.is_instantiable(value)


def _is_setting(usual: Any) -> bool:
    """Whether a value is plain throughout, or the plan's."""
    if isinstance(usual, dict | list):
        return _is_plain(usual) and all(map(_is_setting, usual.values() if isinstance(usual, dict) else usual))
    return _is_plain(usual) or usual.startswith(f"{ConfigExpression.prefix}{ReferenceResolver.ref}plan.")


def _takers(config: Any, given: Iterable[str], id_: str = "") -> Iterator[tuple[dict[str, Any], str, str]]:
    """Each component that takes a given id, with that id and the name of the argument."""
    if not isinstance(config, dict | list):
        return
    component = config if isinstance(config, dict) and ConfigComponent.is_instantiable(config) else None
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        below = f"{id_}{ReferenceResolver.sep}{key}" if id_ else str(key)
        is_reference = isinstance(value, str) and value.startswith(ReferenceResolver.ref)
        taken = ReferenceResolver.normalize_id(value[len(ReferenceResolver.ref) :]) if is_reference else below
        if component is not None and taken in given:
            yield component, taken, str(key)
        yield from _takers(value, given, below)


def _target(component: Mapping[str, Any], parser: ConfigParser) -> Any:
    target: Any = ConfigComponent(component, locator=parser.locator).resolve_module_name()
    try:
        return locate(target) if isinstance(target, str) else target
    except ErrorDuringImport:
        return None


@cache
def _hints(target: Any) -> Mapping[str, Any]:
    """Annotations by argument, those of a class's bases included, to which it may hand arguments on."""
    hints: dict[str, Any] = {}
    functions = (
        [vars(base).get("__init__") for base in reversed(target.__mro__)] if isinstance(target, type) else [target]
    )
    for function in functions:
        try:
            hints |= get_type_hints(function)
        except (AttributeError, NameError, TypeError):  # an annotation's name may exist for type checkers only
            continue
    return hints


def _is_taken(value: Any, target: Any, argument: str) -> bool:
    """Whether a target takes a value in spite of its annotation."""
    if isinstance(value, str):
        return target.__module__.partition(".")[0] != __name__.partition(".")[0]
    parameter = inspect.signature(target).parameters.get(argument)
    return value is None and parameter is not None and parameter.default is None


def _suits(value: Any, hint: Any) -> bool:
    members = _members(hint)
    if members is not None:
        return any(_suits(value, member) for member in members)
    kind = get_origin(hint) or hint
    if kind is Literal:
        return value in get_args(hint)
    if not isinstance(kind, type) or kind in (Any, object):
        return True
    if Protocol in kind.__mro__:
        return False  # protocols here are of networks, losses and the like
    if isinstance(value, str):
        return issubclass(kind, str | Enum) or (not issubclass(kind, Iterable) and isinstance(value, kind))
    if isinstance(value, list) and issubclass(kind, tuple | set | frozenset):
        return True
    return isinstance(value, kind) or (kind is float and isinstance(value, int))


def _members(hint: Any) -> Sequence[Any] | None:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else None


def _in_words(hint: Any) -> str:
    words = []
    for member in _members(hint) or (hint,):
        kind = get_origin(member) or member
        if kind is Literal:
            words += [repr(value) for value in get_args(member)]
        elif issubclass(kind, Mapping):
            words.append("a mapping")
        elif issubclass(kind, Iterable) and kind is not str and kind.__module__ in ("builtins", "collections.abc"):
            words.append("a list")
        else:
            words.append(_WORDS.get(kind, f"something of type {kind.__name__}"))
    words = list(dict.fromkeys(words))
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
