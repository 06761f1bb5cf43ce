"""Names that label files themselves give to their values, such as the segments of 3D Slicer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import DataError
from .table import find_format

__all__ = ["common_class_names", "misplaced_names", "read_class_names"]


def read_class_names(path: str) -> dict[int, str]:
    """Value to name as a label file states them; empty if it states none.

    Args:
        path: of the file.

    Raises:
        DataError: its names cannot be read.
    """
    known = find_format(path)
    try:
        return known.class_names(path) if known and known.class_names else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: names of its values that cannot be read ({error}); save the file anew.") from error


def common_class_names(paths: Sequence[str]) -> dict[int, str]:
    """Label value to name, if all labels (by path) agree on the names of their classes; otherwise empty.

    Raises:
        DataError: one value has different names, so that it is no class of its own.
    """
    found = [read_class_names(path) for path in paths]
    first: dict[int, tuple[str, str]] = {}
    for path, names in zip(paths, found, strict=True):
        for value, name in names.items():
            other, known_name = first.setdefault(value, (path, name))
            if name != known_name:
                raise DataError(
                    f"{path}: expected value {value} to be {known_name}, as in {other}, found {name}; give each "
                    "segment the same value in all files."
                )
    return found[0] if found and all(names == found[0] for names in found) else {}


def misplaced_names(stated: Mapping[int, str], expected: Mapping[int, str]) -> dict[str, tuple[int, int]]:
    """Names with another value in a file than they should have: to that value and the file's.

    Names are compared regardless of capitals and of spaces around them; those that are not expected do not count.

    Args:
        stated: value to name, as in the file.
        expected: value to name, as in the datalist.
    """
    values = {_folded(name): (name, value) for value, name in expected.items()}
    found = ((values.get(_folded(name)), value) for value, name in stated.items())
    return {known[0]: (known[1], value) for known, value in found if known and known[1] != value}


def _folded(name: str) -> str:
    return name.strip().casefold()
