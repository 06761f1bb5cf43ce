"""Configuration files that a user names: found by nearly their names, and read with a message for a slip in them."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

__all__ = ["near_configs_text", "read_overlay"]

_ENDINGS = (".json", ".yaml", ".yml")
_SHOWN = 20


def near_configs_text(name: str, configs: Path) -> str:
    """A question that follows " there is no such file.", with the nearest of a bundle's configurations, or nothing.

    Args:
        name: as typed, of any folder.
        configs: the bundle's folder of configurations.
    """
    paths = [path for path in sorted(configs.rglob("*")) if path.suffix in _ENDINGS and path.stem != "metadata"]
    named: dict[str, list[str]] = {}
    for path in paths:
        named.setdefault(path.stem, []).append(path.relative_to(configs).as_posix())
    # endings, which all names share, would make them alike
    typed = Path(name).name.removesuffix(Path(name).suffix)
    near = [typed] if typed in named else get_close_matches(typed, named, n=2, cutoff=0.7)
    found = [place for each in near for place in named[each] if place != name]
    return f" Did you mean {' or '.join(found)}?" if found else ""


def read_overlay(path: str | Path) -> dict[str, Any]:
    """The content of a configuration file, before MONAI reads it, which would end in a traceback without its name.

    Args:
        path: a file of JSON or YAML.

    Raises:
        ValueError: it is neither, or holds no mapping of keys; the message names file, line, column and what is there.
    """
    path = Path(path)
    if path.suffix.lower() not in _ENDINGS:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(_ENDINGS[:2])} or {_ENDINGS[2]}.")
    try:
        text = path.read_text(encoding="utf-8")
        content = _parse_json(path, text) if path.suffix.lower() == ".json" else _parse_yaml(path, text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a text in UTF-8, found byte {error.object[error.start]:#04x}.") from error
    except RecursionError as error:
        raise ValueError(f"{path}: it is nested too deeply.") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(
            f'{path}: expected keys with their values, such as {{"lambda_u": 0.5}}, found {content!r:.40}.'
        )
    return content


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        found = text[error.pos : error.pos + _SHOWN].partition("\n")[0]
        what = f"found {found!r}" if found else "the line or file ends there"
        raise ValueError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}, {what}; mend it.") from error


def _parse_yaml(path: Path, text: str) -> Any:
    import yaml  # here, so that commands that need none of it start at once

    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{path}{place}: {error.problem}; mend it.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}; mend it.") from error
