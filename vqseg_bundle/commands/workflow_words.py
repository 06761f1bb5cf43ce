"""The words after ``vqseg train``, ``plan``, ``evaluate`` and ``segment``, and the configuration files among them."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from vqseg_bundle.common import near_configs_text, read_overlay

__all__ = ["as_words", "find_overlays", "read_words", "refuse_foreign_weights"]


def read_words(command: str, arguments: Sequence[str], names: Collection[str]) -> dict[str, str]:
    """Keys and their values, as typed; a word alone is the folder, and files given apart are joined in their order.

    Args:
        command: what the words follow, such as "train".
        arguments: ``--key value``, ``--key=value``, a key alone, which is true, and a folder.
        names: keys whose value is the name of a file or folder, which MONAI would evaluate if it begins with $, @ or %.

    Raises:
        ValueError: there is a second folder, a word that is neither, or a key is given twice.
    """
    keys: dict[str, str] = {}
    words, alone = list(arguments), ""
    while words:
        word = words.pop(0)
        name, sign, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--"):
            _refuse_word(command, word, alone or keys.get("dataset_dir", ""))
            name, value, alone = "dataset_dir", word, word
        elif not sign:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        value = f"./{value}" if name in names and value[:1] in set("$@%") else value
        if name in keys and name != "config_file":
            raise ValueError(f"--{name} is given twice: {keys[name]} and {value}; give it once.")
        keys[name] = _joined(keys[name], value) if name in keys else value
    return keys


def _refuse_word(command: str, word: str, folder: str) -> None:
    """Refuse a word without a key, unless it is the first one, and thus the folder."""
    if word.startswith("-"):
        raise ValueError(f"expected --key value, found '{word}'; vqseg {command} --help lists the keys.")
    if folder:
        what = "folder or volume" if command == "segment" else "folder"
        raise ValueError(
            f"expected one {what}, found '{folder}' and '{word}'; keys begin with --, and vqseg {command} --help lists "
            "them."
        )


def as_words(keys: Mapping[str, str]) -> list[str]:
    """Keys and their values as they are typed."""
    return [word for key, value in keys.items() for word in (f"--{key}", value)]


def find_overlays(typed: str, own: Sequence[str], root: Path, folder: Path) -> list[str]:
    """The overlays, found here or else in the bundle's ``configs``, without the command's own configurations.

    Args:
        typed: value of ``--config_file``: a file, several with commas, or a list in Python's form.
        own: the command's own configurations.
        root: the bundle's folder.
        folder: its configurations, as they are to be named.

    Raises:
        ValueError: one does not exist, or cannot be read.
    """
    overlays = []
    for name in _names(typed):
        places = (Path(name).expanduser(), root / name, folder / name)
        found = next((str(place) for place in places if place.is_file()), None)
        if found is None:
            near = near_configs_text(name, root / "configs")
            raise ValueError(
                f"--config_file {name}: there is no such file, neither here nor in {root / 'configs'}.{near}"
            )
        if not any(Path(found).samefile(path) for path in own):
            read_overlay(found)
            overlays.append(found)
    return overlays


def refuse_foreign_weights(keys: Mapping[str, str], overlays: Sequence[str], default: str) -> None:
    """Refuse to evaluate weights of the user's data on the demo cohort, before that is written.

    Args:
        keys: as typed.
        overlays: configuration files, which may name the data, too.
        default: the folder that is meant without "output_dir".

    Raises:
        ValueError: the data are not named, and the weights are not of the demo.
    """
    places = {"dataset_dir", "datalist"}
    if places & {key for content in (keys, *map(read_overlay, overlays)) for key in content}:
        return
    weights = Path(keys.get("output_dir", default)).expanduser() / "model.pt"
    if "checkpoint" in keys:
        weights = Path(keys["checkpoint"].partition(",")[0]).expanduser()
    record = weights.with_suffix(".json")
    info = _info(record) if weights.is_file() and record.is_file() else {"demo": True}
    # records of early versions name only the cohort
    if not info.get("demo") and info.get("cohort") != "demo":
        raise ValueError(
            f"no dataset_dir, so the demo cohort is meant, but {weights} is not of the demo: give --dataset_dir DIR."
        )


def _info(record: Path) -> dict[str, Any]:
    """What a model's record says of its training; of one that cannot be read, which is refused later, the demo."""
    try:
        content = read_overlay(record)
    except (OSError, ValueError):
        return {"demo": True}
    info = content.get("info")
    return info if isinstance(info, dict) else {}


def _joined(first: str, second: str) -> str:
    names = [*_names(first), *_names(second)]
    return ",".join(names) if not any("," in name for name in names) else repr(names)


def _names(typed: str) -> list[str]:
    names = typed.split(",")
    if typed.startswith("["):
        try:
            names = [str(name) for name in ast.literal_eval(typed)]
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"--config_file: expected a file, or several with commas, found '{typed}'.") from error
    return [name.strip() for name in names if name.strip()]
