"""Volume formats: a path's kind, and a module for each that reads it to ``(X, Y, Z)`` or ``(X, Y, Z, C)`` and RAS."""

from .dicom_file import DicomSlice, SeriesLabels, error_reason, read_slice
from .dicom_series import order_slices, series_files, slices_header
from .dicom_slices import list_series, series_labels
from .volume_header import VolumeHeader
from .volume_path import (
    VOLUME_KINDS,
    VolumePath,
    accepts_uneven,
    channel_paths,
    join_channels,
    join_volume_path,
    parse_volume_path,
    volume_kind,
)

__all__ = [
    "VOLUME_KINDS",
    "DicomSlice",
    "SeriesLabels",
    "VolumeHeader",
    "VolumePath",
    "accepts_uneven",
    "channel_paths",
    "error_reason",
    "join_channels",
    "join_volume_path",
    "list_series",
    "order_slices",
    "parse_volume_path",
    "read_slice",
    "series_files",
    "series_labels",
    "slices_header",
    "volume_kind",
]
