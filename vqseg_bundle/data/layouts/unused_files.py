"""Volumes in a cohort's folder that belong to no case, and why, so that none is left out without a word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..formats.dicom_slices import first_slice
from ..formats.table import is_flat, volume_kind
from ..formats.volume_path import parse_volume_path
from .file_roles import PREVIEWS, RESULTS, folder_reason, is_training_result, left_out_folders, name_reasons
from .found_case import FoundCase
from .volume_folder import leads_up

__all__ = ["find_unused_files"]


def find_unused_files(dataset_dir: Path, cases: Sequence[FoundCase]) -> dict[str, list[str]]:
    """Volumes in the folder that belong to no case, by their relative paths; hidden ones are ignored.

    Args:
        dataset_dir: the folder.
        cases: the cases found in it.

    Returns:
        paths by the reason that their names give, to follow "left out as"; it is empty where they give none. A folder
        of labels or results stands for the volumes in it.
    """
    images = [dataset_dir / path for case in cases for path in (case.image, *case.more_channels)]
    labels = [dataset_dir / case.label for case in cases if case.label]
    used = {parse_volume_path(path).file for path in (*images, *labels)}
    holders = {folder for place in used for folder in (place, *place.parents)}
    found: dict[str, dict[Path, None]] = defaultdict(dict)
    others = list[Path]()
    for file in _files(dataset_dir):
        if file in used or (file.parent in used and volume_kind(file) in ("", "dicom")):  # a slice of a series
            continue
        folder = next((folder for folder in left_out_folders(file, dataset_dir) if folder not in holders), None)
        if folder is None:
            others += [file] if volume_kind(file) else []
        elif volume_kind(file) or first_slice(file):
            found[folder_reason(folder.name)][folder] = None
    for file, reason in _reasons(others, images, labels).items():
        found[reason][file] = None
    return {reason: [file.relative_to(dataset_dir).as_posix() for file in files] for reason, files in found.items()}


def _files(root: Path) -> Iterator[Path]:
    """Files that are not hidden, also of links to folders of labels or results, but of no others."""
    for entry in sorted(root.rglob("*")):
        link = entry.is_symlink() and entry.is_dir() and folder_reason(entry.name) and not leads_up(entry)
        for file in sorted(entry.rglob("*")) if link else [entry]:
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts):
                yield file


def _reasons(files: Sequence[Path], images: Sequence[Path], labels: Sequence[Path]) -> dict[Path, str]:
    """What each file's name says of it beside the cases' files, possibly nothing."""
    named = name_reasons([str(path) for path in (*images, *labels, *files)])
    reasons = {file: named.get(str(file), "") for file in files}
    folders = {parse_volume_path(path).file.parent for path in images if not is_flat(path)}
    previews = [file for file in files if is_flat(file) and not folders.isdisjoint(file.parents)]
    results = [file for file in files if is_training_result(file)]
    return {**reasons, **dict.fromkeys(previews, PREVIEWS), **dict.fromkeys(results, RESULTS)}
