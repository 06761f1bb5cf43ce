"""Slices or frames of one patient, by their names, that count as patients of their own."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from .datalist import LEARNED_SPLITS

__all__ = ["FramesApart", "find_frames_apart"]

_SEPARATORS = "_-. "
# a word only behind a separator or a digit: patient12 is no frame of "patien"
_BEHIND = r"(?:[_\-. ]|(?<=[0-9]))"
_NUMBER = r"[_\-. ]?[0-9]+"
_WORDS = "slice|frame|visit|session|ses|day|week|month|phase|run|echo|sl|tp"
# less telling ones only behind a patient's number; s and mr only before theirs, since ADNI's 002_S_0295 is a patient
_WEAK_WORDS = r"scan|[fzt]|(?:s|mr)(?=[0-9])"
_MOMENTS = "left|right|lh|rh|l|r|ed|es|pre|post|baseline|follow-?up|fu"
_WITH_WORD = (
    re.compile(rf"(?P<stem>.*{_BEHIND})(?P<word>{_WORDS}){_NUMBER}", re.IGNORECASE),
    re.compile(rf"(?P<stem>.*[0-9].*{_BEHIND})(?P<word>{_WEAK_WORDS}){_NUMBER}", re.IGNORECASE),
    re.compile(rf"(?P<stem>.*[0-9].*{_BEHIND})(?P<word>{_MOMENTS})", re.IGNORECASE),
)
#: a letter or any word that ends several names
_WITH_ENDING = re.compile(
    r"(?P<stem>.*[0-9].*[_\-. ])(?P<word>[a-z][a-z0-9]*)|(?P<counted>.*[0-9])(?P<letter>[a-z])", re.IGNORECASE
)
_NUMBERED = re.compile(r"(?![0-9]+(?:\.[0-9]+){3})(?P<stem>.*[0-9].*)[_\-. ][0-9]+")  # and no UID
_SUBJECT = re.compile(r"(?P<stem>sub-[A-Za-z0-9]+)_.+")  # of BIDS
_SUBJECT_PATTERN = "^(sub-[^_]+)"
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
    """Group the names of cases that are patients of their own, ``(list, name)``, by the patient that they begin with.

    An ending that all names share is no part of them. All must have one form, and several beginnings, of which one is
    both learnt from and held out:

    - BIDS's ``sub-01_...``;
    - a number behind a word such as "slice", or words such as "left" and "pre", also one behind the other;
    - words or letters that end two names each on average, behind something with a number: ``pat1a``, ``pat1b``;
    - a number alone: all of at least three beginnings must have a number, too, and at least two cases.
    """
    names = [name for _, name in cases]
    rest = _shared_ending(names)
    names = [name.removesuffix(rest) for name in names]
    for read in (_read_subjects, _read_words, _read_endings, _read_numbers):
        stems, pattern = read(names)
        groups = _groups(cases, stems) if pattern else {}
        if len(groups) > 1 and (read is not _read_numbers or _is_of_frames(groups)):
            apart = {stem: lists for stem, lists in groups.items() if _is_apart(lists)}
            whole = pattern if read is _read_subjects else f"{pattern}{_escaped(rest)}$"
            return FramesApart(apart, whole) if apart else None
    return None


def _shared_ending(names: Sequence[str]) -> str:
    """What all names end in, from a separator on."""
    places = zip(*(reversed(name) for name in names), strict=False)
    common = "".join(signs[0] for signs in takewhile(lambda signs: len(set(signs)) == 1, places))[::-1]
    start = min((place for sign in _SEPARATORS if (place := common.find(sign)) >= 0), default=len(common))
    return common[start:]


# Each of the readers returns the names' beginnings and a pattern without its end; without a pattern they do not fit.


def _read_subjects(names: Sequence[str]) -> tuple[list[str], str]:
    matches = _matches(_SUBJECT, names)
    return [match["stem"] for match in matches], _SUBJECT_PATTERN if matches else ""


def _read_words(names: Sequence[str]) -> tuple[list[str], str]:
    """Words one behind the other are taken off as long as several beginnings stay."""
    stems, tail = list(names), ""
    while True:
        for form in _WITH_WORD:
            matches = _matches(form, stems)
            shorter = [_bare(match["stem"]) for match in matches]
            if len(set(shorter)) > 1:
                break
        else:
            return stems, f"^(.*?){tail}" if tail else ""
        sign = _sign(names)
        number = f"{sign}[0-9]+" if form is not _WITH_WORD[-1] else ""
        stems, tail = shorter, f"{sign}{_any_of(match['word'] for match in matches)}{number}{tail}"


def _read_endings(names: Sequence[str]) -> tuple[list[str], str]:
    matches = _matches(_WITH_ENDING, names)
    stems = [_bare(match["stem"] or match["counted"]) for match in matches]
    endings = {match["word"] or match["letter"] for match in matches}
    if len(endings) < 2 or len(names) < 2 * len(endings):
        return [], ""
    shorter, pattern = _read_words(stems)
    return shorter or stems, f"{pattern or '^(.*?)'}{_sign(names)}{_any_of(endings)}"


def _read_numbers(names: Sequence[str]) -> tuple[list[str], str]:
    matches = _matches(_NUMBERED, names)
    return [match["stem"] for match in matches], f"^(.*){_sign(names)[:-1]}[0-9]+" if matches else ""


def _matches(form: re.Pattern[str], names: Sequence[str]) -> list[re.Match[str]]:
    """Of all names, or none."""
    matches = [match for name in names if (match := form.fullmatch(name))]
    return matches if len(matches) == len(names) else []


def _bare(stem: str) -> str:
    return stem.rstrip(_SEPARATORS)


def _sign(names: Iterable[str]) -> str:
    """For a pattern, a separator that may be missing."""
    return "[_. -]?" if any(sign in name for name in names for sign in ". ") else "[_-]?"


def _any_of(words: Iterable[str]) -> str:
    distinct = sorted(set(words), key=lambda word: (-len(word), word))
    return distinct[0] if len(distinct) == 1 else f"(?:{'|'.join(distinct)})"


def _escaped(rest: str) -> str:
    """For a pattern; re.escape would also escape - and spaces, which a reader need not see."""
    return re.sub(r"([^\w\- ])", r"\\\1", rest)


def _groups(cases: Sequence[tuple[str, str]], stems: Sequence[str]) -> _Groups:
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (split, name), stem in zip(cases, stems, strict=True):
        groups[stem][split].append(name)
    return groups


def _is_of_frames(groups: _Groups) -> bool:
    return len(groups) >= _FEWEST_NUMBERED and all(sum(map(len, lists.values())) > 1 for lists in groups.values())


def _is_apart(lists: Iterable[str]) -> bool:
    return len({split in LEARNED_SPLITS for split in lists}) > 1
