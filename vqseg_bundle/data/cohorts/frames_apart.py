"""Slices or frames of one patient, by their names, that count as patients of their own."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .datalist import LEARNED_SPLITS

__all__ = ["FramesApart", "find_frames_apart"]

# a word only behind a separator or a digit: patient12 is no frame of "patien"
_WITH_WORD = re.compile(r"(?P<stem>.*(?:[_-]|(?<=[0-9])))(?P<word>slice|frame|visit|sl|tp)[_-]?[0-9]+", re.IGNORECASE)
_WITH_LETTER = re.compile(r"(?P<stem>.*[0-9].*(?:[_-]|(?<=[0-9])))(?P<word>[fzt])[_-]?[0-9]+", re.IGNORECASE)
_NUMBERED = re.compile(r"(?P<stem>.*[0-9].*)[_-][0-9]+")
_FEWEST_NUMBERED = 3  # of names without a word, two beginnings may be two hospitals

_Groups = Mapping[str, Mapping[str, list[str]]]


@dataclass(frozen=True)
class FramesApart:
    """Cases that look like several of one patient, but are both learnt from and evaluated on.

    Args:
        patients: the common beginning of their names, and the cases' names by list, of those that are in both.
        pattern: a ``--patient-pattern`` that gives these beginnings.
    """

    patients: _Groups
    pattern: str

    @property
    def shown(self) -> str:
        """The first of them with a case of each list, and how many more there are."""
        stem, lists = next(iter(self.patients.items()))
        cases = ", ".join(f'{names[0]} in "{split}"' for split, names in lists.items())
        more = len(self.patients) - 1
        return f"{stem} ({cases})" + (f" and {more} more" if more else "")


def find_frames_apart(cases: Sequence[tuple[str, str]]) -> FramesApart | None:
    """Group the names of cases that are patients of their own, ``(list, name)``, by what is before a trailing number.

    None, unless all names end in a number behind a word such as "slice", with several beginnings, of which one is both
    learnt from and held out. Without a word, all beginnings must have a number, too, and at least two cases.
    """
    for form in (_WITH_WORD, _WITH_LETTER, _NUMBERED):
        matches = [match for _, name in cases if (match := form.fullmatch(name))]
        if not cases or len(matches) < len(cases):
            continue
        groups = _groups(cases, [match["stem"].rstrip("_-") for match in matches])
        if form is _NUMBERED and not _is_of_frames(groups):
            continue
        apart = {stem: lists for stem, lists in groups.items() if _is_apart(lists)}
        return FramesApart(apart, _pattern(matches)) if apart and len(groups) > 1 else None
    return None


def _groups(cases: Sequence[tuple[str, str]], stems: Sequence[str]) -> _Groups:
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (split, name), stem in zip(cases, stems, strict=True):
        groups[stem][split].append(name)
    return groups


def _is_of_frames(groups: _Groups) -> bool:
    return len(groups) >= _FEWEST_NUMBERED and all(sum(map(len, lists.values())) > 1 for lists in groups.values())


def _is_apart(lists: Iterable[str]) -> bool:
    return len({split in LEARNED_SPLITS for split in lists}) > 1


def _pattern(matches: Iterable[re.Match[str]]) -> str:
    words = sorted({match.groupdict().get("word") or "" for match in matches}, key=len, reverse=True)
    word = words[0] if len(words) == 1 else f"(?:{'|'.join(words)})"
    return f"^(.*?)[_-]?{word}[_-]?[0-9]+$" if word else "^(.*)[_-][0-9]+$"
