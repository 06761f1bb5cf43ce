"""The volumes of a folder and its subfolders, for inference without a datalist.

Circular links are not followed, and unreadable files do not hide others.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from vqseg_bundle.common import relative_path_note

from ..errors import DataError, file_list
from ..formats.dicom_slices import first_slice, list_series
from ..formats.table import FORMATS, volume_kind
from ..formats.volume_path import accepts_uneven, channel_paths, join_volume_path, parse_volume_path
from .channel_files import gather_channels
from .file_roles import RESULTS, folder_reason, image_reasons, is_training_result
from .found_case import naming_paths, unique_case_ids

__all__ = ["leads_up", "list_series_paths", "list_volumes", "place_to_segment", "walk_volumes"]

logger = logging.getLogger(__name__)


def leads_up(entry: Path) -> bool:
    """Whether this is a link to its own folder or one above, in which every volume would be found again."""
    if not entry.is_symlink() or not entry.is_dir():
        return False
    place, holder = entry.resolve(), entry.parent.resolve()
    return place == holder or place in holder.parents


def walk_volumes(root: Path, left_out: dict[str, list[str]]) -> list[str]:
    """Absolute paths of the volumes in a folder and its subfolders, except hidden ones; sorted, series before files.

    A folder counts once regardless of links to it, by its own path if it is below ``root``; a link to a folder above it
    is not followed. A link to a file below ``root`` is that file; one to a file elsewhere is a volume with the link's
    name. ``left_out`` receives files that are not images, or unreadable, by reason.
    """
    place = root.resolve()
    seen, links = {place, *place.parents}, list[Path]()
    paths = list(_walk(root.absolute(), seen, links, left_out))
    for link in links:  # grows while links are followed
        place = link.resolve()
        if place in seen or leads_up(link):
            left_out["links to folders above, or to what is read already"].append(str(link))
        elif reason := folder_reason(place.name):
            left_out[reason].append(str(link))
        else:
            seen.add(place)
            paths += _walk(link, seen, links, left_out)
    return sorted(_without_links(paths, left_out), key=lambda path: parse_volume_path(path).file.parts)


def list_series_paths(folder: Path) -> list[str]:
    """Paths of the DICOM series directly in a folder: the folder if there is only one, otherwise ``FOLDER#UID``."""
    series = list_series(folder)
    if len(series) < 2:
        return [str(folder)] * len(series)
    return [join_volume_path(folder, uid) for uid in series]


def _walk(folder: Path, seen: set[Path], links: list[Path], left_out: dict[str, list[str]]) -> Iterator[str]:
    files, folders = _entries(folder, left_out)
    if any(volume_kind(file) in ("", "dicom") for file in files):
        yield from list_series_paths(folder)
    for file in files:
        if is_training_result(file):
            left_out[RESULTS].append(str(file))
        elif volume_kind(file) not in ("", "dicom"):
            yield str(file)
    for below in folders:
        if reason := folder_reason(below.name):
            left_out[reason].append(str(below))
        elif below.is_symlink():
            links.append(below)
        elif below.resolve() not in seen:
            seen.add(below.resolve())
            yield from _walk(below, seen, links, left_out)


def _entries(folder: Path, left_out: dict[str, list[str]]) -> tuple[list[Path], list[Path]]:
    """Files and subfolders of a folder, except hidden ones."""
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


def list_volumes(
    dataset_dir: str | Path, uneven_slices: str = "refuse", in_channels: int = 1, channel_names: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Every volume to segment in a folder and its subfolders.

    Left out, and logged: subfolders named like those of labels or earlier results (``labels``, ``masks``,
    ``predictions``, ``previous-*`` and the like); in folders such as ``results``, volumes of a name that is elsewhere,
    too; a file named as the label of another beside it, such as ``x_gt.nii.gz`` beside ``x.nii.gz`` or ``x_ct``,
    ``mask_1`` beside ``img_1``, ``segmentation.nii.gz`` beside any; a file named as the prediction of another in the
    folder; pictures and NPY arrays if there are volumes, as previews; unreadable files; links to files already
    included. Each DICOM series is one volume; for its files see :func:`~vqseg_bundle.data.source_files`, for its name
    :mod:`vqseg_bundle.data.layouts.found_case`.

    Args:
        dataset_dir: a folder, or one volume's path.
        uneven_slices: "refuse" or "accept" DICOM series whose slices are not evenly spaced.
        in_channels: the model's channels, to group separate channel files, see
            :func:`~vqseg_bundle.data.layouts.channel_files.gather_channels`.
        channel_names: of the model's channels, in order; empty if unknown.

    Returns:
        cases with "image" (absolute path) and "case" (a unique name), sorted by path.

    Raises:
        DataError: the folder does not exist, has no volume to segment, or files of other channels than the model's.
        ValueError: ``uneven_slices`` is neither of the two.
    """
    accept, root = accepts_uneven(uneven_slices), Path(dataset_dir)
    left_out: dict[str, list[str]] = defaultdict(list)
    if root.is_dir():
        paths = _images_alone(walk_volumes(root, left_out), left_out)
    elif root.is_file():
        paths = [str(root.absolute())] if volume_kind(root) else []
    else:
        note = relative_path_note(root)
        raise DataError(f"dataset_dir '{dataset_dir}' is neither a folder nor a file: name a folder of volumes.{note}")
    said = [f"{reason}: {file_list(found)}" for reason, found in left_out.items()]
    if not paths:
        raise DataError(_nothing_to_segment(root, said))
    for text in said:
        logger.info("left out as %s", text)
    _warn_of_split_series(paths)
    named = gather_channels(paths, in_channels, channel_names)
    names, paths = unique_case_ids(naming_paths(list(named.values()))), list(named)
    if accept:
        paths = [join_volume_path(path, accept_uneven=True) if volume_kind(path) == "dicom" else path for path in paths]
    return [{"image": path, "case": case} for path, case in zip(paths, names, strict=True)]


def place_to_segment(image: str) -> str | None:
    """Where :func:`list_volumes` finds a volume of a cohort: its file, or the folder of its slices or channels.

    None for channels in separate files that it would not take together, or in another order.
    """
    files = channel_paths(image)
    if len(files) == 1:
        return str(parse_volume_path(image).file)
    return str(Path(files[0]).parent) if list(gather_channels(files, len(files))) == [image] else None


def _warn_of_split_series(paths: list[str]) -> None:
    """Warn of a DICOM series whose slices lie in several folders: each part would be taken for a volume."""
    folders: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        place = parse_volume_path(path)
        if place.file.is_dir() and (found := first_slice(place.file)):
            folders[place.series_uid or found.series_uid].add(str(place.file))
    for parts in folders.values():
        if len(parts) > 1:
            logger.warning(
                "one DICOM series lies in several folders, each of which is taken for a volume of its own: %s; put its "
                "slices into one folder.",
                file_list(sorted(parts)),
            )


def _nothing_to_segment(root: Path, left_out: list[str]) -> str:
    suffixes = ", ".join(suffix for each in FORMATS for suffix in each.suffixes)
    expected = f"expected files that end in {suffixes}, or folders of DICOM slices"
    if root.is_file():
        return f"dataset_dir '{root}' is no volume: {expected}; name such a file, or a folder of them."
    if left_out:
        return (
            f"dataset_dir '{root}' holds no volume to segment: {expected}. Left out as {'; '.join(left_out)}. "
            "To segment one of these folders, name it itself."
        )
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in root.iterdir())
    return (
        f"dataset_dir '{root}' holds no volume to segment: {expected}, found {file_list(names) or 'nothing'}. "
        "Name the folder that holds the images."
    )


def _images_alone(paths: list[str], left_out: dict[str, list[str]]) -> list[str]:
    reasons = image_reasons(paths)
    for path, reason in reasons.items():
        left_out[reason].append(path)
    return [path for path in paths if path not in reasons]
