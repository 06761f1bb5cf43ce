"""Volumes below a folder, by what lies where: links lead in no circles, and what cannot be read hides nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..formats import join_volume_path, list_series, parse_volume_path, volume_kind

__all__ = ["list_series_paths", "walk_volumes"]

_RESULT_FOLDER = re.compile(r"predictions?|preds?|previous-.*", re.IGNORECASE)
_LABEL_FOLDER = re.compile(
    r"(label|mask|seg|segmentation|annotation|gt|ground[-_ ]?truth)s?([-_ ]?(tr|ts|va|val|train|test|training|testing|"
    r"validation))?",
    re.IGNORECASE,
)
#: what a training leaves in its output folder, beside its run.json, that could be taken for images
_TRAINING_RESULTS = ("progress.png",)


def walk_volumes(root: Path, left_out: dict[str, list[str]]) -> list[str]:
    """Volumes of a folder and of those below it, hidden ones excepted, sorted; a folder's series come before its files.

    A folder counts once however many links lead to it, by its own path if it lies below ``root``; a link to a folder
    that holds the link is not followed. A link to a file below ``root`` is that file, one to a file elsewhere is a
    volume of the link's name.

    Args:
        root: the folder.
        left_out: receives what is no image to segment, or cannot be read, by the reason.

    Returns:
        absolute paths, see :mod:`vqseg_bundle.data.formats.volume_path`.
    """
    place = root.resolve()
    seen, links = {place, *place.parents}, list[Path]()
    paths = list(_walk(root.absolute(), seen, links, left_out))
    for link in links:  # grows while links are followed
        place, holders = link.resolve(), link.parent.resolve()
        if place in seen or place == holders or place in holders.parents:
            left_out["links to folders above, or to what is read already"].append(str(link))
        elif reason := _reason(place):
            left_out[reason].append(str(link))
        else:
            seen.add(place)
            paths += _walk(link, seen, links, left_out)
    return sorted(_without_links(paths, left_out), key=lambda path: parse_volume_path(path).file.parts)


def list_series_paths(folder: Path) -> list[str]:
    """Paths of the DICOM series in a folder itself: the folder where there is one, else ``FOLDER#UID`` for each.

    Raises:
        DataError: a DICOM file is broken.
    """
    series = list_series(folder)
    if len(series) < 2:
        return [str(folder)] * len(series)
    return [join_volume_path(folder, uid) for uid in series]


def _walk(folder: Path, seen: set[Path], links: list[Path], left_out: dict[str, list[str]]) -> Iterator[str]:
    files, folders = _entries(folder, left_out)
    if any(volume_kind(file) in ("", "dicom") for file in files):
        yield from list_series_paths(folder)
    of_training = any(file.name == "run.json" for file in files)
    for file in files:
        if of_training and file.name in _TRAINING_RESULTS:
            left_out["results of earlier runs"].append(str(file))
        elif volume_kind(file) not in ("", "dicom"):
            yield str(file)
    for below in folders:
        if reason := _reason(below):
            left_out[reason].append(str(below))
        elif below.is_symlink():
            links.append(below)
        elif below.resolve() not in seen:
            seen.add(below.resolve())
            yield from _walk(below, seen, links, left_out)


def _entries(folder: Path, left_out: dict[str, list[str]]) -> tuple[list[Path], list[Path]]:
    """Files and folders in a folder, without hidden ones."""
    files, folders = list[Path](), list[Path]()
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        left_out[f"folders that cannot be read ({error.strerror})"].append(str(folder))
        return files, folders
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            kind = folders if entry.is_dir() else files if entry.is_file() else None
        except OSError as error:
            left_out[f"files that cannot be read ({error.strerror})"].append(str(entry))
            continue
        if kind is not None:
            kind.append(entry)
        elif entry.is_symlink():
            left_out["links that lead nowhere"].append(str(entry))
    return files, folders


def _reason(folder: Path) -> str:
    """Why a folder of that name holds nothing to segment; empty if it may."""
    if _RESULT_FOLDER.fullmatch(folder.name):
        return "results of earlier runs"
    return "labels" if _LABEL_FOLDER.fullmatch(folder.name) else ""


def _without_links(paths: list[str], left_out: dict[str, list[str]]) -> list[str]:
    places = {path: parse_volume_path(path).file for path in paths}
    files = {place.resolve() for place in places.values() if not place.is_symlink()}
    kept = []
    for path, place in places.items():
        if place.is_symlink() and place.is_file() and place.resolve() in files:
            left_out["links to folders above, or to what is read already"].append(path)
        else:
            kept.append(path)
    return kept
