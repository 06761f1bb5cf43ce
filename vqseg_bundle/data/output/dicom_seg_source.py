"""The source images of a DICOM SEG, with attributes fit to be copied: nothing missing, nothing invalid."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqseg_bundle.common import LateModule

from ..errors import DataError
from ..formats.dicom_file import DicomSlice, read_slice
from ..formats.dicom_series import order_slices, slices_header
from ..formats.file_format import VolumeHeader

if TYPE_CHECKING:
    import pydicom
else:
    pydicom = LateModule("pydicom", "dicom")

__all__ = ["has_other_than_ascii", "read_sources"]

logger = logging.getLogger(__name__)

_NEEDED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
)
#: type 2 of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): must be there, may be empty
_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_SEXES = ("M", "F", "O")
_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "DA": lambda value: pydicom.valuerep.DA(value),
    "DS": float,
    "DT": lambda value: pydicom.valuerep.DT(value),
    "IS": int,
    "TM": lambda value: pydicom.valuerep.TM(value),
}
_FORMS = {
    "AS": r"\d{3}[DWMY]",
    "CS": r"[A-Z0-9 _]{1,16}",
    "UI": r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))*",
}  # PS3.5 6.2
_TEXTS = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
_PATIENT_GROUPS = (0x0010, 0x0012)  # what a segmentation copies besides _MAY_BE_EMPTY
_REFERENCES = ("ReferencedStudySequence", "ReferencedPatientSequence")


def read_sources(files: Sequence[str | Path]) -> tuple[list[pydicom.Dataset], VolumeHeader]:
    """Attributes of the slices (one file per slice), from first to last, and their grid.

    The first one, whose patient and study a segmentation copies, gets empty type 2 attributes for missing or invalid
    ones; other invalid values are dropped, except UIDs that identify study, series and images. The log names them.
    DataError: a file cannot be read, lacks an attribute that a segmentation must refer to, or shares its
    SOPInstanceUID.
    """
    if not files:
        raise DataError("a DICOM SEG needs the files of the series that was segmented, found none.")
    with pydicom.config.disable_value_validation():  # pydicom would warn of what is corrected here
        pairs = [_read(Path(file)) for file in files]
        _refuse_shared_uids([dataset for _, dataset in pairs])
        by_file = {item.file: dataset for item, dataset in pairs}
        slices = order_slices([item for item, _ in pairs])
        sources = [by_file[item.file] for item in slices]
        grid = slices_header(slices)
        _complete(sources[0], slices[0].file)
        _complete_measures(sources, grid)
    return sources, grid


def has_other_than_ascii(dataset: pydicom.Dataset) -> bool:
    """Whether any text needs a stated character set."""
    texts = (str(element.value) for element in dataset.iterall() if element.VR in _TEXTS)
    return not all(text.isascii() for text in texts)


def _read(file: Path) -> tuple[DicomSlice, pydicom.Dataset]:
    item = read_slice(file)
    if item is None:
        raise DataError(f"{file}: expected an image, found a DICOM file without one.")
    dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    missing = [name for name in _NEEDED if not dataset.get(name)]
    if missing:
        raise DataError(f"{file}: a DICOM SEG needs {', '.join(missing)} of its source, found none.")
    if dataset.SOPClassUID.name == dataset.SOPClassUID:
        raise DataError(f"{file}: SOPClassUID {dataset.SOPClassUID} is none of DICOM's, which a DICOM SEG needs.")
    return item, dataset


def _refuse_shared_uids(sources: Sequence[pydicom.Dataset]) -> None:
    uid, count = Counter(str(source.SOPInstanceUID) for source in sources).most_common(1)[0]
    if count > 1:
        raise DataError(
            f"a DICOM SEG refers to each slice by its SOPInstanceUID, found {uid} in {count} of {len(sources)} slices."
        )


def _complete(source: pydicom.Dataset, file: str) -> None:
    dropped = list(_drop_invalid(source))
    if dropped:
        logger.warning("%s: invalid values, not taken over to DICOM SEG: %s", file, ", ".join(dropped))
    kept = [f"{name} {source[name].value}" for name in _NEEDED if not _is_valid(source, source[name].tag)]
    if kept:
        logger.warning("%s: invalid, and kept in DICOM SEG so that both are found together: %s", file, ", ".join(kept))
    empty = [name for name in _MAY_BE_EMPTY if name not in source]
    for name in empty:
        setattr(source, name, "")
    if empty:
        logger.info("%s: not said, and so empty in DICOM SEG: %s", file, ", ".join(empty))
    _free_text(source)


def _complete_measures(sources: Sequence[pydicom.Dataset], grid: VolumeHeader) -> None:
    """Give all slices one thickness and one orientation; the positions determine their distance."""
    first, directions = sources[0], grid.affine[:3, :2] / np.linalg.norm(grid.affine[:3, :2], axis=0)
    if not first.get("SliceThickness"):
        area = np.linalg.norm(np.cross(grid.affine[:3, 0], grid.affine[:3, 1]))
        first.SliceThickness = pydicom.valuerep.DS(
            abs(float(np.linalg.det(grid.affine[:3, :3]) / area)), auto_format=True
        )
    if "SpacingBetweenSlices" in first:
        del first.SpacingBetweenSlices
    if any(source.ImageOrientationPatient != first.ImageOrientationPatient for source in sources):
        cosines = np.ravel((directions * [[-1], [-1], [1]]).T)  # from RAS to LPS
        for source in sources:
            source.ImageOrientationPatient = [pydicom.valuerep.DS(float(value), auto_format=True) for value in cosines]


def _drop_invalid(source: pydicom.Dataset) -> Iterator[str]:
    """Delete or empty what cannot be converted or is invalid; yield it if a segmentation would copy it."""
    needed = {pydicom.tag.Tag(name) for name in _NEEDED}
    for tag in list(source.keys()):
        if tag in needed or _is_valid(source, tag):
            continue
        name, value = pydicom.datadict.keyword_for_tag(tag), _shown(source, tag)
        del source[tag]
        if name in _MAY_BE_EMPTY:
            setattr(source, name, "")
        if name in _MAY_BE_EMPTY or tag.group in _PATIENT_GROUPS:
            yield f"{name or tag} {value}".strip()


def _is_valid(source: pydicom.Dataset, tag: Any) -> bool:
    try:
        element = source[tag]
        if element.VR == "SQ":
            list(pydicom.Dataset({tag: element}).iterall())
            return element.keyword not in _REFERENCES or all(_is_reference(item) for item in element.value)
        for value in element.value if element.VM > 1 else [element.value]:
            if value and element.VR in _CONVERTERS:
                _CONVERTERS[element.VR](value)
            elif value and element.VR in _FORMS and not re.fullmatch(_FORMS[element.VR], str(value)):
                return False
        return element.keyword != "PatientSex" or not element.value or element.value in _SEXES
    except Exception:  # pydicom converts values here; a damaged one can raise any exception
        return False


def _is_reference(item: pydicom.Dataset) -> bool:
    return bool(item.get("ReferencedSOPClassUID") and item.get("ReferencedSOPInstanceUID"))


def _shown(source: pydicom.Dataset, tag: Any) -> str:
    try:
        return str(source[tag].value)[:64]
    except Exception:  # see _is_valid
        return ""


def _free_text(source: pydicom.Dataset) -> None:
    """Detach text and names from their character set, so that they can be written in another one."""
    for element in source:
        if element.VR == "PN":
            element.value = [str(name) for name in element.value] if element.VM > 1 else str(element.value)
    if "SpecificCharacterSet" in source:
        del source.SpecificCharacterSet
