"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd) volumes, read with ITK.

A segmentation of 3D Slicer (``.seg.nrrd``) is an NRRD label map whose header has ``SegmentN_Name:=liver`` and
``SegmentN_LabelValue:=1`` for each segment. Overlapping segments are stored in layers along a fourth axis, which are
not class indices and are refused as several channels.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.data import ITKReader
from monai.data.utils import orientation_ras_lps

from vqseg_bundle.common import LateModule

from ..errors import DataError
from .file_format import FileFormat, VolumeHeader

if TYPE_CHECKING:
    import itk
else:
    itk = LateModule("itk", "dicom")

__all__ = ["ITK"]
_FIELD = re.compile(rb"^Segment(\d+)_(Name|LabelValue):=(.*)$")
#: of MetaImage and NRRD, as their libraries read them
_DATA_FILE = re.compile(
    rb"(?:^|[\r\n])\s*(?:ElementDataFile\s*[=:]|data ?file:)([^\r\n]*)(.*)", re.IGNORECASE | re.DOTALL
)
_VOXEL_SIZE = re.compile(
    rb"(?:^|[\r\n])\s*(?:Element(?:Spacing|Size)\s*[=:]|space ?directions:|spacings:)", re.IGNORECASE
)
_END_OF_NRRD = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_NUMBERED = re.compile(r"[^%]*(%0?\d?d[^%]*)?")
_LONGEST_HEADER = 2**20
_MOST_LINES = 10_000
_SEGMENTATION = ".seg.nrrd"


def _read_header(path: str) -> VolumeHeader:
    """Geometry without voxels; a flat image becomes a volume of one slice."""
    image_io = _open(path)
    dims = image_io.GetNumberOfDimensions()
    sizes = [int(image_io.GetDimensions(axis)) for axis in range(dims)]
    components = int(image_io.GetNumberOfComponents())
    shape = (*_spatial(tuple(sizes)), *([components] if components > 1 else []))
    return VolumeHeader(shape, _affine(image_io, dims), notes=_notes(path))


def _read_voxels(path: str) -> np.ndarray:
    """Read ``(X, Y, Z)`` in the stored type, or ``(X, Y, Z, C)`` as float32."""
    reader, header = ITKReader(), _read_header(path)
    image_io = _open(path)
    if image_io.GetNumberOfComponents() == 1:
        image = reader.read(path)
    else:
        # ITK supports vectors of only a few types
        file = itk.ImageFileReader[itk.VectorImage[itk.F, image_io.GetNumberOfDimensions()]].New(FileName=path)
        file.Update()
        image = file.GetOutput()
    voxels, _ = reader.get_data(image)
    return np.asarray(voxels).reshape(header.shape)


def _open(path: str) -> Any:
    _refuse_data_elsewhere(path)
    image_io = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
    if image_io is None or image_io.GetNameOfClass() not in ("NrrdImageIO", "MetaImageIO"):
        raise DataError(f"{path}: expected an NRRD or MetaImage file, found other content; convert or correct it.")
    image_io.SetFileName(path)
    image_io.ReadImageInformation()
    return image_io


def _notes(path: str) -> tuple[str, ...]:
    """pynrrd's files have no voxel size unless their writer gave one; ITK takes 1 without a word."""
    with Path(path).open("rb") as file:
        head = file.read(_LONGEST_HEADER)
    end = _DATA_FILE.search(head) if not head.startswith(b"NRRD") else _END_OF_NRRD.search(head)
    if _VOXEL_SIZE.search(head[: end.start() if end else None]):
        return ()
    return ("names no voxel size; 1 x 1 x 1 mm is assumed, and axes that run to the left, back and head",)


def _refuse_data_elsewhere(path: str) -> None:
    """Refuse a header whose voxels lie outside its folder: whoever wrote it would choose which files are read."""
    folder = os.path.abspath(Path(path).parent)  # noqa: PTH100
    for name in _data_files(path):
        found = os.path.normpath(Path(folder, name))
        # a % that numbers no files would be one of C's printf, and read memory
        if not Path(found).is_relative_to(folder) or not _NUMBERED.fullmatch(name):
            raise DataError(
                f"{path}: expected voxels beside the header, found a header that names {name}; put both into one "
                "folder and correct the name in the header."
            )


def _data_files(path: str) -> Iterator[str]:
    """What a header names for its voxels: a file, or LIST and all that follow; LOCAL is a name in its folder, too."""
    with Path(path).open("rb") as file:
        head = file.read(_LONGEST_HEADER)
    end = _END_OF_NRRD.search(head) if head.startswith(b"NRRD") else None
    found = _DATA_FILE.search(head[: end.end()] if end else head)
    if found is None and (end or len(head) < _LONGEST_HEADER):
        return
    name = found[1].decode("utf-8", "replace").strip() if found else ""
    listed = name.upper().startswith("LIST")
    if not found or (listed and len(head) == _LONGEST_HEADER):
        raise DataError(f"{path}: expected a header of less than 1 MiB, found a longer one; save the volume anew.")
    yield name
    if listed:
        yield from (line.decode("utf-8", "replace").strip() for line in found[2].splitlines())


def _source_files(path: str) -> list[str]:
    """The header and the files of its voxels."""
    found = {path: None}
    for name in _data_files(path):
        # slice%03d.raw 1 20 1 numbers files
        pattern = re.sub(r"%0?\d?d", "*", glob.escape(name).split(" ")[0]) if "%" in name else glob.escape(name)
        found |= dict.fromkeys(str(file) for file in sorted(Path(path).parent.glob(pattern)) if file.is_file())
    return list(found)


def _spatial(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return (*sizes, 1) if len(sizes) == 2 else sizes


def _affine(image_io: Any, dims: int) -> np.ndarray:
    """From ITK's LPS to nibabel's RAS."""
    axes = min(dims, 3)
    affine = np.eye(4)
    for axis in range(axes):
        affine[:axes, axis] = np.asarray(image_io.GetDirection(axis))[:axes] * image_io.GetSpacing(axis)
        affine[axis, 3] = image_io.GetOrigin(axis)
    return np.asarray(orientation_ras_lps(affine))


def _segment_names(path: str) -> dict[int, str]:
    """Label value to name in a segmentation of 3D Slicer; empty for any other file."""
    if not path.lower().endswith(_SEGMENTATION):
        return {}
    fields: dict[int, dict[str, str]] = {}
    with Path(path).open("rb") as file:
        for _ in range(_MOST_LINES):
            line = file.readline().strip()
            if not line:  # the header ends at the first empty line
                break
            match = _FIELD.match(line)
            if match:
                fields.setdefault(int(match[1]), {})[match[2].decode()] = match[3].decode("utf-8", "replace").strip()
    # older versions state no value: they number segments from 1
    return {
        int(segment.get("LabelValue", number + 1)): segment["Name"]
        for number, segment in fields.items()
        if segment.get("Name") and segment.get("LabelValue", "1").isdigit()
    }


ITK = FileFormat(
    kind="itk",
    title="NRRD, MetaImage",
    suffixes=(".nrrd", ".nhdr", ".mha", ".mhd"),
    read_header=_read_header,
    read_voxels=_read_voxels,
    source_files=_source_files,
    class_names=_segment_names,
    detached=(".nhdr", ".mhd"),
)
