"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd) volumes, read with ITK.

A segmentation of 3D Slicer (``.seg.nrrd``) is an NRRD label map whose header has ``SegmentN_Name:=liver`` and
``SegmentN_LabelValue:=1`` for each segment. Overlapping segments are stored in layers along a fourth axis, which are
not class indices and are refused as several channels.
"""

from __future__ import annotations

import glob
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.data import ITKReader
from monai.data.utils import orientation_ras_lps

from vqseg_bundle.common import LateModule

from ..errors import DataError
from .file_format import FileFormat, VolumeHeader
from .itk_text import HeaderText, check_fields, check_files, check_length, check_packed, read_header_text

if TYPE_CHECKING:
    import itk
else:
    itk = LateModule("itk", "dicom")

__all__ = ["ITK"]
_FIELD = re.compile(rb"^Segment(\d+)_(Name|LabelValue):=(.*)$")
#: fields that give one, in lower case and without blanks
_VOXEL_SIZES = {"elementspacing", "elementsize", "spacedirections", "spacings"}
#: an NRRD's space in which axes are those of a body; scanner-xyz, for example, says nothing of the body's position
_ANATOMICAL = re.compile(r"(left|right)-(anterior|posterior)-superior(-time)?|[LR][AP]ST?", re.IGNORECASE)
_QUOTED = re.compile(r'"([^"]*)"')
_MM = {"mm", "millimeter", "millimeters", "millimetre", "millimetres"}
_MOST_LINES = 10_000
_SEGMENTATION = ".seg.nrrd"


def _read_header(path: str) -> VolumeHeader:
    """Geometry without voxels; a flat image becomes a volume of one slice."""
    return _header(*_open(path))


def _header(text: HeaderText, image_io: Any) -> VolumeHeader:
    check_length(text, _size(image_io))
    dims = image_io.GetNumberOfDimensions()
    sizes = tuple(int(image_io.GetDimensions(axis)) for axis in range(dims))
    components = int(image_io.GetNumberOfComponents())
    shape = (*_spatial(sizes), *([components] if components > 1 else []))
    return VolumeHeader(shape, _affine(image_io, dims), notes=_notes(text))


def _read_voxels(path: str) -> np.ndarray:
    """Read ``(X, Y, Z)`` in the stored type, int8 as int16 and int64 as float64, or ``(X, Y, Z, C)`` as float32."""
    text, image_io = _open(path)
    reader, header = ITKReader(), _header(text, image_io)
    check_packed(text, _size(image_io))
    if image_io.GetNumberOfComponents() == 1:
        # ITK has no images of these types in Python
        enums = itk.CommonEnums
        others = {enums.IOComponent_CHAR: itk.SS, enums.IOComponent_LONGLONG: itk.D}
        image = reader.read(path, pixel_type=others.get(image_io.GetComponentType()))
    else:
        # ITK supports vectors of only a few types
        file = itk.ImageFileReader[itk.VectorImage[itk.F, image_io.GetNumberOfDimensions()]].New(FileName=path)
        file.Update()
        image = file.GetOutput()
    voxels, _ = reader.get_data(image)
    return np.asarray(voxels).reshape(header.shape)


def _open(path: str) -> tuple[HeaderText, Any]:
    """The header as text, and ITK's reader of it, voxels unread."""
    text = read_header_text(path)
    check_files(text)
    image_io = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
    if image_io is None or image_io.GetNameOfClass() not in ("NrrdImageIO", "MetaImageIO"):
        raise DataError(f"{path}: expected an NRRD or MetaImage file, found other content; convert or correct it.")
    check_fields(text)
    image_io.SetFileName(path)
    image_io.ReadImageInformation()
    return text, image_io


def _size(image_io: Any) -> int:
    """Bytes that the voxels take in memory."""
    sizes = [int(image_io.GetDimensions(axis)) for axis in range(image_io.GetNumberOfDimensions())]
    return math.prod(sizes) * int(image_io.GetNumberOfComponents()) * int(image_io.GetComponentSize())


def _notes(text: HeaderText) -> tuple[str, ...]:
    """What ITK assumes without a word.

    pynrrd's files have no voxel size unless their writer gave one. Units are not converted: programs that use ITK leave
    them out, too, so that labels drawn in them, and predictions shown in them, would not lie on the image.
    """
    notes = []
    if not _VOXEL_SIZES & text.fields.keys():
        notes.append("names no voxel size; 1 x 1 x 1 mm is assumed, and axes that run to the left, back and head")
    elif text.nrrd and not _ANATOMICAL.fullmatch(text.fields.get("space", "")) and text.fields.get("dimension") != "2":
        notes.append("names no anatomical space, such as LPS; one of axes to the left, back and head is assumed")
    units = _units(text)
    if any(unit.casefold() not in _MM for unit in units):
        shown = " and ".join(map(repr, units))
        notes.append(f"gives its lengths in {shown}; they are taken as mm, as ITK takes them")
    return tuple(notes)


def _units(text: HeaderText) -> list[str]:
    """The units of length that a header names."""
    fields, of_axes = text.fields, _QUOTED.findall(text.fields.get("units", ""))
    if "spaceunits" in fields:
        found = _QUOTED.findall(fields["spaceunits"])
    elif text.nrrd:
        found = of_axes if len(of_axes) <= 3 else []  # a fourth axis may be of time
    else:
        found = [fields.get("distanceunits", "")]
    return [unit for unit in dict.fromkeys(map(str.strip, found)) if unit.strip("?")]


def _source_files(path: str) -> list[str]:
    """The header and the files of its voxels."""
    found = {path: None}
    for name in read_header_text(path).named:
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
