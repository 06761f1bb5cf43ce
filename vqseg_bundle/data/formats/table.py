"""The table of all formats, and the format of a path. A new format is a module and a line in the table."""

from __future__ import annotations

from pathlib import Path

from .dicom_series import DICOM
from .file_format import FileFormat
from .itk_files import ITK
from .nifti import NIFTI
from .plain_files import ARRAY, PICTURE
from .volume_path import parse_volume_path

__all__ = ["FORMATS", "find_format", "is_flat", "volume_kind"]

FORMATS: tuple[FileFormat, ...] = (NIFTI, ITK, DICOM, PICTURE, ARRAY)


def find_format(path: str | Path) -> FileFormat | None:
    """The format of a path by its name, or as a folder of slices; None if there is none.

    If channels are in separate files, the first file decides.
    """
    file = parse_volume_path(path).file
    name = file.name.lower()
    by_name = (each for each in FORMATS if name.endswith(each.suffixes))
    of_folders = (each for each in FORMATS if each.folders)
    return next(by_name, next(of_folders, None) if file.is_dir() else None)


def volume_kind(path: str | Path) -> str:
    """The ``kind`` of :func:`find_format`; empty if there is none."""
    found = find_format(path)
    return found.kind if found else ""


def is_flat(path: str | Path) -> bool:
    """Whether a path has a format whose files are previews if there are volumes beside them."""
    found = find_format(path)
    return found is not None and found.flat
