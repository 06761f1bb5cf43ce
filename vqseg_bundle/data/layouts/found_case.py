"""A case in a folder, and the patient in its name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import DataError

__all__ = ["FoundCase", "patient_of", "some"]

_MOST_SHOWN = 5


@dataclass(frozen=True)
class FoundCase:
    """A volume in a folder.

    Args:
        image: path relative to the folder, with forward slashes.
        label: path of its label, empty without one.
        patient: its patient.
        split: its list if the folder determines one, otherwise empty.
        info: further information from the folder, kept in the datalist.
        more_channels: if its channels are in separate files, the paths of the second and later ones.
    """

    image: str
    label: str
    patient: str
    split: str = ""
    info: Mapping[str, str] = field(default_factory=dict)
    more_channels: tuple[str, ...] = ()

    def below(self, part: str) -> FoundCase:
        """The same case with paths relative to the parent of the folder ``part``."""
        return replace(
            self,
            image=f"{part}/{self.image}",
            label=f"{part}/{self.label}" if self.label else "",
            more_channels=tuple(f"{part}/{path}" for path in self.more_channels),
        )


def patient_of(name: str, pattern: str | None) -> str:
    """The first matching group of the pattern in a case's name, or the whole match; None takes the name itself.

    DataError: the pattern is no regular expression, or does not match.
    """
    if pattern is None:
        return name
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise DataError(f'--patient-pattern "{pattern}": expected a regular expression: {error}.') from error
    if match is None:
        raise DataError(f'--patient-pattern "{pattern}": expected to match every case name, found none in {name}.')
    return next((group for group in match.groups() if group), match[0])


def some(names: Sequence[str]) -> str:
    """The first few names, and the number of others."""
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(names[:_MOST_SHOWN]) + more
