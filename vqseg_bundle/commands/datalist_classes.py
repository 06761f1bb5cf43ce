"""The classes of a datalist: named, found in the labels, or kept of the datalist that it replaces."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from vqseg_bundle.data import (
    DataError,
    FoundCase,
    FoundClasses,
    KeptLists,
    check_ignore_last,
    find_classes,
    find_misplaced_names,
    parse_label_values,
)

__all__ = ["datalist_classes", "warn_of_names"]

_WHOLE = re.compile("-?[0-9]{1,18}")  # str.isdigit takes superscripts, too
_UNNAMED = re.compile("background|label_[0-9]+")


def datalist_classes(
    root: Path, cases: Sequence[FoundCase], labels: str | None, label_values: str | None, kept: KeptLists | None
) -> FoundClasses:
    """The classes that are asked for, or else those that the folder names, or else those of the replaced list.

    Args:
        root: the folder.
        cases: its cases.
        labels: the names, separated by commas; None finds them.
        label_values: their values in label files, separated by commas; None finds them.
        kept: what the replaced list had.

    Raises:
        DataError: names or values are no list of such, or do not fit the labels.
    """
    names = _names(labels) if labels else []
    if label_values:
        return _valued(names, label_values)
    if names or kept is None or all(map(_UNNAMED.fullmatch, kept.classes.names)):
        return find_classes(root, cases, names)
    found = find_classes(root, cases) if any(case.label for case in cases) else None
    if found is not None and not all(map(_UNNAMED.fullmatch, found.names)):
        return found
    if kept.classes.values:
        return kept.classes
    if found is not None and len(found.names) == len(kept.classes.names):
        return FoundClasses(kept.classes.names, found.values)
    try:
        return find_classes(root, cases, kept.classes.names)
    except DataError as error:
        raise DataError(f"{error} The names are those of {kept.source}; --labels gives others.") from error


def warn_of_names(root: Path, cases: Sequence[FoundCase], classes: FoundClasses, given: bool) -> None:
    """Name the first file with another order of classes; the datalist is written, its check is what refuses it.

    Args:
        root: the folder.
        cases: its cases.
        classes: of the datalist.
        given: whether they were named on the command line.
    """
    found = find_misplaced_names(root, cases, classes)
    if not found:
        return
    label, names = next(iter(found.items()))
    what = ", ".join(f'"{name}" is value {here}, in the file {there}' for name, (here, there) in names.items())
    more = f" and of {len(found) - 1} more" if len(found) > 1 else ""
    source = "--labels" if given else "dataset.json"
    print(
        f"warning: {source} contradicts the names of {label}{more}: by {source} {what}. A training refuses that: name "
        "the classes as the files do, or correct the files.",
        file=sys.stderr,
    )


def _valued(names: list[str], label_values: str) -> FoundClasses:
    parts = label_values.split(",")
    if not all(_WHOLE.fullmatch(part.strip()) for part in parts):
        raise DataError(f'--label-values: expected whole numbers, "0,1,...", found "{label_values}".')
    names = names or ["background", *(f"label_{part.strip()}" for part in parts[1:])]
    values = parse_label_values([int(part) for part in parts], len(names), "--label-values")
    return FoundClasses(tuple(names), tuple(values.values()))


def _names(labels: str) -> list[str]:
    names = [name.strip() for name in labels.split(",")]
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise DataError(f'--labels: expected two or more different names, "background,name,...", found "{labels}".')
    check_ignore_last(names, "--labels")
    return names
