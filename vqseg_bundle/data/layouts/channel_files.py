"""Channels in separate files, found by the files' names.

- ``x_0000``, ``x_0001``, ... are nnU-Net's, with the channel's number.
- ``x_flair``, ``x_t1``, ``x_t1ce``, ``x_t2`` are BraTS's up to 2021, and ``x-t2f``, ``x-t1n``, ``x-t1c``, ``x-t2w`` its
  later ones. Both are used in this order, FLAIR, T1, T1 with contrast, T2, so that a model of one works on the other;
  for a model that was trained on them in another order, in that.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePath

from ..errors import DataError
from ..formats.table import volume_kind
from ..formats.volume_io import read_header
from ..formats.volume_path import channel_paths, join_channels, parse_volume_path
from .channel_names import SEQUENCES, channel_key, channels_differ
from .found_case import case_stem

__all__ = [
    "agreed_channel_names",
    "brats_case",
    "case_of_channel",
    "find_brats_channels",
    "find_numbered_channels",
    "gather_channels",
    "in_model_order",
    "sequences_of_files",
]

#: in the order of SEQUENCES
_BRATS_ENDINGS = (("_flair", "_t1", "_t1ce", "_t2"), ("-t2f", "-t1n", "-t1c", "-t2w"))
_MOST_CHANNELS = 16
_NUMBER = re.compile(r"_(\d{4})$")


def find_numbered_channels(
    names: Collection[str], labels: Collection[str] = (), count: int | None = None
) -> dict[str, tuple[str, ...]]:
    """Cases with a channel ``x_0000``; without one, four digits at the end are part of a name.

    They are also part of a name if a label is named ``x_0000``, if ``x`` has a number above 15, or if only one ``x``
    has several numbers and neither a label nor ``count`` says that these are channels.

    Args:
        names: stems of files.
        labels: stems of labels.
        count: channels of every case; others are not cases. None uses the largest number found.

    Returns:
        case to the names of all its channels in order, missing ones included.
    """
    numbers: dict[str, set[int]] = defaultdict(set)
    for name in names:
        match = _NUMBER.search(name)
        if match and match.start():
            numbers[name[: match.start()]].add(int(match[1]))
    named = {
        case
        for case, those in numbers.items()
        if max(those) >= _MOST_CHANNELS or any(f"{case}_{number:04d}" in labels for number in those)
    }
    first = {case for case in numbers if 0 in numbers[case] and case not in named}
    if count is None:
        alone = len(set(numbers) - named) == 1 and not first & set(labels)
        count = 1 if alone else max((max(numbers[case]) + 1 for case in first), default=0)
    # if others have several channels, a case without the first one lacks it
    meant = first if count == 1 else set(numbers) - named if first else set()
    return {
        case: tuple(f"{case}_{number:04d}" for number in range(count)) for case in meant if max(numbers[case]) < count
    }


def find_brats_channels(names: Collection[str], certain: bool = False) -> dict[str, tuple[str, ...]]:
    """Cases with BraTS's channels, as :func:`find_numbered_channels` returns them.

    ``certain``: a case with only one of them lacks the others; otherwise only if another case has two.
    """
    found: dict[str, tuple[str, ...]] = {}
    for case in dict.fromkeys(filter(None, map(brats_case, names))):
        schemes = [tuple(case + ending for ending in endings) for endings in _BRATS_ENDINGS]
        found[case] = max(schemes, key=lambda channels: len({*channels}.intersection(names)))
    several = any(len({*channels}.intersection(names)) > 1 for channels in found.values())
    return found if certain or several else {}


def brats_case(name: str) -> str:
    """The part of a name before BraTS's channel ending; empty if there is none."""
    endings = (ending for endings in _BRATS_ENDINGS for ending in endings if name.endswith(ending))
    return next((name.removesuffix(ending) for ending in endings), "")


def case_of_channel(name: str) -> str:
    """The case's name if this is the name of a channel; otherwise the name itself."""
    return brats_case(name) or _NUMBER.sub("", name) or name


def sequences_of_files(paths: Sequence[str]) -> tuple[str, ...]:
    """The sequences of a volume's channels, by BraTS's endings of their files; empty if not all have one of their own.

    Args:
        paths: of the channels, in order.
    """
    found = [_sequence(case_stem(str(parse_volume_path(path).file))) for path in paths]
    return tuple(found) if len(found) > 1 and len({*found} - {""}) == len(found) else ()


def _sequence(name: str) -> str:
    pairs = (pair for endings in _BRATS_ENDINGS for pair in zip(endings, SEQUENCES, strict=True))
    return next((sequence for ending, sequence in pairs if name.endswith(ending)), "")


def agreed_channel_names(names: Sequence[str], volumes: Iterable[str], source: str) -> tuple[str, ...]:
    """The names of all volumes' channels: those given, otherwise :func:`sequences_of_files`; empty if unknown.

    Args:
        names: of a datalist, or none.
        volumes: paths of all volumes.
        source: the datalist, for messages.

    Raises:
        DataError: the files of a volume are those of other sequences, or in another order.
    """
    agreed = tuple(names)
    for channels in map(channel_paths, volumes):
        found = sequences_of_files(channels)
        agreed = agreed or found
        if channels_differ(agreed, found):
            raise DataError(
                f"{source}: expected the channels {', '.join(agreed)}, in this order, in every image, found "
                f"{', '.join(found)} by the names of {', '.join(channels)}; list the files of all images in one order, "
                'which is that of "channel_names", if these are given.'
            )
    return agreed


def in_model_order(volume: str, channel_names: Sequence[str]) -> str:
    """The path of a volume with its channels in the order of the model's, if their files' names tell which is which.

    Args:
        volume: path, see :mod:`vqseg_bundle.data.formats.volume_path`.
        channel_names: of the model's channels, in order; empty if unknown.

    Raises:
        DataError: the files' names tell other sequences than the model's.
    """
    paths, wanted = channel_paths(volume), [channel_key(name) for name in channel_names]
    found = sequences_of_files(paths)
    if not found or not wanted:
        return volume
    if sorted(found) != sorted(wanted):
        raise DataError(
            f"{paths[0]}: expected the model's channels, {', '.join(channel_names)}, found files of "
            f"{', '.join(found)}, by their names; name each image's files x_0000, x_0001, ... in the model's order."
        )
    return join_channels(paths[found.index(sequence)] for sequence in wanted)


def gather_channels(paths: Sequence[str], count: int, channel_names: Sequence[str] = ()) -> dict[str, str]:
    """Group files into volumes for a model with ``count`` channels; folders of DICOM slices are kept.

    With several channels, ``x_0000`` and ``x_0001``, or BraTS's four, are one volume if each has one channel; missing
    files are part of its path, so that they are reported. With one channel, a single ``x_0000`` is named ``x``.
    ``channel_names`` are the model's, in whose order BraTS's files are brought (:func:`in_model_order`).

    Returns:
        path of each volume, in the order of their first files, to a path whose last part is its name.
    """
    folders: dict[PurePath, dict[str, str]] = defaultdict(dict)
    for path in paths:
        if volume_kind(path) != "dicom":
            folders[PurePath(path).parent].setdefault(case_stem(path), path)
    volumes: dict[str, tuple[str, str]] = {}
    for folder, files in folders.items():
        found = find_numbered_channels(files, count=count) | (
            find_brats_channels(files, certain=True) if count == len(SEQUENCES) else {}
        )
        for case, channels in found.items():
            held = [files[channel] for channel in channels if channel in files]
            if count == 1 or _holds_one_channel(held[0]):
                volume = join_channels(_path_of(channel, files, held[0]) for channel in channels)
                volume = in_model_order(volume, channel_names)
                volumes |= dict.fromkeys(held, (volume, str(folder / case)))
    return dict(volumes.get(path, (path, path)) for path in paths)


def _path_of(channel: str, files: Mapping[str, str], beside: str) -> str:
    """The path of a channel, existing or not: that of the file beside it with the channel's name."""
    place = PurePath(beside)
    return files.get(channel) or str(place.with_name(channel + place.name[len(case_stem(place.name)) :]))


def _holds_one_channel(path: str) -> bool:
    try:
        return read_header(path).channels == 1
    except DataError:  # the data check reports it
        return True
