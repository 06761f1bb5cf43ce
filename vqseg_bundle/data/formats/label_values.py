"""Class indices 0, 1, 2, ... and their values in a cohort's files, such as BraTS's 0, 1, 2 and 4.

The network, metrics and DICOM SEG use only class indices: labels are translated when read, predictions when written.
Without a mapping, ``{}``, files have class indices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import DataError

__all__ = ["classes_of_values", "parse_label_values", "values_of_classes"]

_MOST_SHOWN = 10


def parse_label_values(given: object, count: int, where: str) -> dict[int, int]:
    """A datalist's ``label_values``, a list or mapping, as class index to value; empty where values are indices.

    DataError: not a whole number for each of ``count`` classes, or one for two of them; ``where`` names the key.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        by_index = {str(index): value for index, value in given.items()}
    else:
        by_index = {str(index): value for index, value in enumerate(given)} if isinstance(given, Sequence) else {}
    found = {index: by_index[str(index)] for index in range(count) if type(by_index.get(str(index))) is int}
    if not len(by_index) == len(found) == len(set(found.values())) == count:
        raise DataError(
            f"{where}: expected the files' value for each of {count} classes in order, such as "
            f'{[0, 1, 2, 4, 5, 6, 7][: max(count, 2)]}, or {{"0": value, "1": value, ...}}, all whole and different, '
            f"found {given!r}."
        )
    return {} if all(index == value for index, value in found.items()) else found


def classes_of_values(voxels: np.ndarray, label_values: Mapping[int, int], path: str) -> np.ndarray:
    """Class indices of a label's voxels by ``label_values``, index to value; DataError for any other value."""
    values, indices = (np.array(part) for part in zip(*sorted((v, i) for i, v in label_values.items()), strict=True))
    places = np.minimum(np.searchsorted(values, voxels), len(values) - 1)
    if (values[places] != voxels).any():
        found = np.unique(voxels)
        shown = ", ".join(f"{value:g}" for value in found[:_MOST_SHOWN].tolist())
        allowed = ", ".join(map(str, label_values.values()))
        raise DataError(f'{path}: values outside "label_values" ({allowed}): found {shown}; correct the file.')
    return indices.astype(np.min_scalar_type(int(indices.max())))[places]


def values_of_classes(classes: np.ndarray, label_values: Mapping[int, int]) -> np.ndarray:
    """The inverse of :func:`classes_of_values`, as int64."""
    values = np.zeros(max(label_values) + 1, dtype=np.int64)
    values[list(label_values)] = list(label_values.values())
    return values[classes.astype(np.int64)]
