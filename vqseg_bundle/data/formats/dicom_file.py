"""One DICOM file: whether it is DICOM, has an image, and is complete.

All attributes that a volume needs are read and converted here at once, since pydicom converts values only on access,
and a damaged one can raise any exception.
"""

from __future__ import annotations

import math
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vqseg_bundle.common import LateModule, MissingExtraError

from ..errors import DataError

if TYPE_CHECKING:
    import pydicom
else:
    pydicom = LateModule("pydicom", "dicom")

__all__ = ["DicomSlice", "SeriesLabels", "error_reason", "has_preamble", "read_slice"]

_NOT_IMAGES = ("SEG", "SR", "PR", "KO", "REG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "DOC", "FID", "M3D")
_RESCALING = ("RescaleIntercept", "RescaleSlope", "ModalityLUTSequence")
_FRAME_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_TAGS = [
    *_FRAME_GROUPS,
    "SOPClassUID",
    "PatientID",
    "StudyInstanceUID",
    "StudyDate",
    "StudyDescription",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "Modality",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "FrameOfReferenceUID",
    *_RESCALING,
]
_DICOM_ROOT = "1.2.840.10008."
_DICM = slice(128, 132)
# Group 0002 or 0008, with which a file without preamble starts; the second in either byte order.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
_PIXEL_TAGS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_LONG_VRS = (b"OB", b"OW", b"UN")
_UNDEFINED = 0xFFFFFFFF
_DEFLATED = "1.2.840.10008.1.2.1.99"
_MOST_CHARACTERS = 150
#: pydicom warns of every odd value in every file, and has one switch for all threads
_VALIDATION = threading.Lock()
_NOT_IN_PATHS = re.compile(r"[^\w.-]")
_LONGEST_UID = 64


@dataclass(frozen=True)
class SeriesLabels:
    """Names by which people know a series; empty if the file does not say."""

    patient: str = ""
    study_date: str = ""
    study: str = ""
    number: str = ""
    description: str = ""


@dataclass(frozen=True)
class DicomSlice:
    """A file with one image; attributes that it does not state are None."""

    file: str  # its path
    series_uid: str  # SeriesInstanceUID, made fit to be part of a path
    labels: SeriesLabels  # of its series
    modality: str  # such as "CT"
    localizer: bool  # by its ImageType
    rows: int  # height, pixels
    columns: int  # width, pixels
    frames: int  # number of images in it
    photometric: str  # PhotometricInterpretation
    position: tuple[float, ...] | None  # centre of the first pixel, mm, LPS
    cosines: tuple[float, ...] | None  # along a row, then down a column, LPS
    spacing: tuple[float, ...] | None  # of rows, then of columns, mm
    thickness: float | None  # mm
    rescaling: tuple[str, ...]  # which attributes of the conversion to the modality's unit it states
    fault: str  # fault of the pixels; empty if there is none
    enhanced: bool = False  # whether geometry and rescaling lie in groups of frames
    mosaic: bool = False  # whether it is many slices side by side, as Siemens stores functional MRI
    flat: bool = False  # whether its RescaleSlope is 0, which would make all values one
    study_uid: str = ""  # StudyInstanceUID
    odd_rescaling: str = ""  # attributes of the conversion that are no numbers, and what they are
    left_bits: tuple[int, int] | None = None  # HighBit and BitsStored, where pixels are not in the lowest bits
    frame: str = ""  # FrameOfReferenceUID, to which positions are relative; empty if it does not say


def has_preamble(file: Path) -> bool:
    """Whether a file has DICOM's preamble, with "DICM" after 128 bytes. Old files do not."""
    with file.open("rb") as stream:
        return stream.read(_DICM.stop)[_DICM] == b"DICM"


def read_slice(file: Path) -> DicomSlice | None:
    """A file's image without its pixels, None for a report or the like; DataError: empty, not DICOM, or damaged."""
    try:
        with _VALIDATION, pydicom.config.disable_value_validation(), file.open("rb") as stream:
            _refuse_others(file, stream)
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=_TAGS)
            if _holds_image(dataset):
                return _slice(file, dataset, stream)
            if _tells_its_class(dataset):
                return None
    except (DataError, MissingExtraError):
        raise
    except Exception as error:  # see the module's docstring
        raise DataError(f"{file}: cannot be read as DICOM ({error_reason(error)}); copy it again.") from error
    raise DataError(f"{file}: ends before it says what it holds; copy it again.")


def error_reason(error: BaseException) -> str:
    """An exception's type and text, in one line of bounded length."""
    text = " ".join(str(error).split()).replace("; ", ", ")
    return f"{type(error).__name__}: {text}"[:_MOST_CHARACTERS]


def _refuse_others(file: Path, stream: BinaryIO) -> None:
    start = stream.read(_DICM.stop)
    if not start:
        raise DataError(f"{file}: is empty; copy it again.")
    if start[_DICM] != b"DICM" and not _starts_with_element(start):
        raise DataError(f"{file}: is no DICOM file; copy it again.")
    stream.seek(0)


def _starts_with_element(start: bytes) -> bool:
    """Whether the bytes may be a tag with a VR, or with a length below 64 KiB (like the first elements)."""
    if start[:2] not in _FIRST_GROUPS or len(start) < 8:
        return False
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return explicit or start[6:8] == b"\0\0"


def _class_uid(dataset: Any) -> Any:
    return pydicom.uid.UID(str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""))


def _tells_its_class(dataset: Any) -> bool:
    """Whether the class is one of DICOM's, or a vendor's that the file goes on after; not the beginning of a UID."""
    uid = _class_uid(dataset)
    if uid.startswith(_DICOM_ROOT):
        return str(uid.name) != str(uid)
    return bool(uid and dataset.get("SeriesInstanceUID"))


def _holds_image(dataset: Any) -> bool:
    """By its class, so that a file truncated before Rows is not taken for a report; if that is unknown, by Rows."""
    if dataset.get("Modality") in _NOT_IMAGES:
        return False
    return "Image Storage" in str(_class_uid(dataset).name) or bool(dataset.get("Rows") and dataset.get("Columns"))


def _slice(file: Path, dataset: Any, stream: BinaryIO) -> DicomSlice:
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    return DicomSlice(
        file=str(file),
        series_uid=_NOT_IN_PATHS.sub("_", str(dataset.get("SeriesInstanceUID") or ""))[:_LONGEST_UID],
        labels=SeriesLabels(
            patient=_text(dataset, "PatientID"),
            study_date=_text(dataset, "StudyDate"),
            study=_text(dataset, "StudyDescription"),
            number=_text(dataset, "SeriesNumber"),
            description=_text(dataset, "SeriesDescription"),
        ),
        modality=_text(dataset, "Modality"),
        localizer="LOCALIZER" in (dataset.get("ImageType") or []),
        rows=rows,
        columns=columns,
        frames=_integer(dataset, "NumberOfFrames") or 1,
        photometric=_text(dataset, "PhotometricInterpretation") or "MONOCHROME2",
        position=_numbers(dataset, "ImagePositionPatient", 3),
        cosines=_numbers(dataset, "ImageOrientationPatient", 6),
        spacing=_numbers(dataset, "PixelSpacing", 2) or _numbers(dataset, "ImagerPixelSpacing", 2),
        thickness=_thickness(dataset),
        rescaling=tuple(name for name in _RESCALING if dataset.get(name) not in (None, "")),
        fault=_fault(dataset, stream, rows * columns),
        enhanced=any(name in dataset for name in _FRAME_GROUPS),
        mosaic="MOSAIC" in (dataset.get("ImageType") or []),
        flat=dataset.get("RescaleSlope") == 0,
        study_uid=_text(dataset, "StudyInstanceUID"),
        odd_rescaling=_odd_rescaling(dataset),
        left_bits=_left_bits(dataset),
        frame=_text(dataset, "FrameOfReferenceUID"),
    )


def _odd_rescaling(dataset: Any) -> str:
    """Where validation is off, pydicom gives a number with a decimal comma as text."""
    stated = {name: dataset.get(name) for name in ("RescaleIntercept", "RescaleSlope")}
    odd = [f'{name} "{value}"' for name, value in stated.items() if value not in (None, "") and not _is_number(value)]
    return " and ".join(odd)


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _left_bits(dataset: Any) -> tuple[int, int] | None:
    if dataset.get("HighBit") is None or not dataset.get("BitsStored"):
        return None
    high, stored = _integer(dataset, "HighBit"), _integer(dataset, "BitsStored")
    return (high, stored) if high != stored - 1 else None


def _fault(dataset: Any, stream: BinaryIO, pixels: int) -> str:
    """Compare the stated size of one image with the bytes in the file; pydicom has stopped at the pixels' tag."""
    if not pixels:
        return "ends before its image's size"
    if dataset.file_meta.get("TransferSyntaxUID") == _DEFLATED:
        return ""
    place = stream.tell()
    head = stream.read(12)
    if len(head) < 8 or head[:4] not in _PIXEL_TAGS:
        return "ends before its pixels" if len(head) < 8 else ""
    explicit = head[4:6] in _LONG_VRS
    order = "little" if head[:4] == _PIXEL_TAGS[0] else "big"
    length = int.from_bytes(head[8:12] if explicit else head[4:8], order)  # type: ignore[arg-type]
    start = place + (12 if explicit else 8)
    there = min(length, stream.seek(0, 2) - start)
    needed = math.ceil(pixels * _integer(dataset, "BitsAllocated") / 8)
    if length == _UNDEFINED or there >= needed:  # the length of compressed pixels is not known beforehand
        return ""
    return f"ends after {max(there, 0):,} of {needed:,} bytes of pixels"


def _integer(dataset: Any, name: str) -> int:
    return int(dataset.get(name) or 0)


def _text(dataset: Any, name: str) -> str:
    try:
        return str(dataset.get(name) or "").strip()
    except Exception:  # damaged text is no reason to refuse the image
        return ""


def _numbers(dataset: Any, name: str, count: int) -> tuple[float, ...] | None:
    values = dataset.get(name)
    if values is None or values == "":
        return None
    several = [values] if isinstance(values, str | int | float) else list(values)
    if len(several) != count:
        raise ValueError(f"{name}: expected {count} numbers, found {len(several)}")
    if not all(_is_number(value) for value in several):
        raise ValueError(f"{name}: expected {count} numbers, found {values}")
    return tuple(float(value) for value in several)


def _thickness(dataset: Any) -> float | None:
    """Not needed if there are several slices, so an invalid one counts as None."""
    try:
        value = float(dataset.get("SliceThickness") or 0.0)
    except Exception:
        return None
    return value if 0 < value < math.inf else None
