"""A case in a folder, and the patient in its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..errors import DataError

__all__ = ["FoundCase", "patient_of"]


@dataclass(frozen=True)
class FoundCase:
    """A volume in a folder."""

    image: str  # path relative to the folder, with forward slashes
    label: str  # path of its label, empty where there is none
    patient: str  # whom it shows
    split: str = ""  # the list it must go to, where the folder says so
    info: Mapping[str, str] = field(default_factory=dict)  # what else the folder tells of it
    more_channels: tuple[str, ...] = ()  # paths of the second and later channels, in files of their own

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
