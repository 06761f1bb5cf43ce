"""Volume formats: a path's kind, and a module for each that reads it to ``(X, Y, Z)`` or ``(X, Y, Z, C)`` and RAS."""

from .dicom_series import series_files
from .dicom_slices import list_series
from .volume_header import VolumeHeader
from .volume_path import VOLUME_KINDS, VolumePath, accepts_uneven, join_volume_path, parse_volume_path, volume_kind

__all__ = [
    "VOLUME_KINDS",
    "VolumeHeader",
    "VolumePath",
    "accepts_uneven",
    "join_volume_path",
    "list_series",
    "parse_volume_path",
    "series_files",
    "volume_kind",
]
