"""Volume formats: a table of one record each, and modules that read them as ``(X, Y, Z)`` or ``(X, Y, Z, C)``."""

from .dicom_file import DicomSlice, SeriesLabels, error_reason, read_slice
from .dicom_series import order_slices, series_files, slices_header
from .dicom_slices import list_series, series_labels
from .file_format import FileFormat, VolumeHeader
from .table import FORMATS, find_format, is_flat, volume_kind
from .volume_path import (
    VolumePath,
    accepts_uneven,
    channel_paths,
    join_channels,
    join_volume_path,
    parse_volume_path,
)

__all__ = [
    "FORMATS",
    "DicomSlice",
    "FileFormat",
    "SeriesLabels",
    "VolumeHeader",
    "VolumePath",
    "accepts_uneven",
    "channel_paths",
    "error_reason",
    "find_format",
    "is_flat",
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
