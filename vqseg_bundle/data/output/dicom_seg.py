"""A class map as DICOM SEG (PS3.3 A.51) of its source series, in addition to SaveImaged's file."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from vqseg_bundle import __version__
from vqseg_bundle.common import LateModule

from ..errors import DataError
from ..formats.dicom_file import error_reason
from ..formats.dicom_series import series_files
from ..formats.file_format import VolumeHeader, corner_distance
from ..formats.table import volume_kind
from .dicom_seg_source import has_other_than_ascii, read_sources

__all__ = ["SaveDicomSegd", "check_segment_codes", "write_dicom_seg"]

if TYPE_CHECKING:
    import highdicom as hd
    import pydicom
else:
    # highdicom does not work with the pydicom of MONAI Label's server; nothing is written there
    hd = LateModule("highdicom", "dicom")
    pydicom = LateModule("pydicom", "dicom")

#: value, coding scheme, meaning
_Code = tuple[str, str, str]
#: code of a segment whose label has none: true of any structure, and no more specific
_GENERAL: _Code = ("91723000", "SCT", "Anatomical Structure")
_NAME = "vqseg_bundle"
_SERIES_NUMBER = 1000  # after the scanner's own series
_LONGEST_LABEL = 64  # value representation LO
_TOLERANCE = 0.1  # of a voxel
_UTF8 = "ISO_IR 192"
logger = logging.getLogger(__name__)


def write_dicom_seg(
    classes: np.ndarray,
    affine: np.ndarray,
    source_files: Sequence[str | Path],
    labels: Mapping[int, str],
    path: str | Path,
    segment_codes: Mapping[str, Any] | None = None,
) -> None:
    """Write a binary segmentation with one segment per label, which refers to its source images.

    Patient and study are those of the images, see :func:`~vqseg_bundle.data.output.dicom_seg_source.read_sources`; text
    is in UTF-8 if any is not ASCII. Frames are written where a segment has foreground; segments without any are still
    described, and a map with only background gets one empty frame per segment, since the format requires one.

    Args:
        classes: class indices ``(X, Y, Z)`` on the grid of the series, its axes in any order and direction.
        affine: 4 x 4 matrix from indices of ``classes`` to mm, RAS (as in NIfTI).
        source_files: one file per slice, in any order.
        labels: class index to name, background (0) included.
        path: the file to write; an existing one is replaced.
        segment_codes: see :func:`check_segment_codes`.

    Raises:
        DataError: a source cannot be read or lacks an attribute that a segmentation must refer to, or ``classes`` is
            not on the sources' grid.
        ValueError: ``segment_codes`` does not have the described form.
    """
    coded = check_segment_codes(segment_codes, labels)
    sources, grid = read_sources(source_files)
    where = f"the series {sources[0].SeriesInstanceUID}"
    frames = _on_source_grid(np.asarray(classes), np.asarray(affine, dtype=np.float64), grid, where)
    if not frames.any():
        frames, sources = frames[:1], sources[:1]
    texts = [*labels.values(), *(meaning for pair in coded.values() for _, _, meaning in pair)]
    ascii_alone = all(text.isascii() for text in texts) and not has_other_than_ascii(sources[0])
    with pydicom.config.disable_value_validation():  # UIDs are those of the sources, and the log has named invalid ones
        segmentation = _segmentation(frames, sources, labels, coded, None if ascii_alone else _UTF8)
        segmentation.save_as(path)


def _segmentation(
    frames: np.ndarray,
    sources: Sequence[pydicom.Dataset],
    labels: Mapping[int, str],
    coded: Mapping[str, tuple[_Code, _Code]],
    character_set: str | None,
) -> pydicom.Dataset:
    artificial = LateModule("pydicom.sr.codedict", "dicom").codes.DCM.ArtificialIntelligence
    algorithm = hd.AlgorithmIdentificationSequence(_NAME, artificial, __version__)
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            hd.seg.SegmentDescription(
                segment_number=index,
                segment_label=name.replace("\\", "/")[:_LONGEST_LABEL],  # a backslash would split it in two
                segmented_property_category=hd.sr.CodedConcept(*coded[name][0]),
                segmented_property_type=hd.sr.CodedConcept(*coded[name][1]),
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
            )
            for index, name in sorted(labels.items())[1:]
        ],
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=_NAME,
        manufacturer_model_name="VQ-Seg",
        software_versions=__version__,
        device_serial_number=__version__,
        content_label="SEGMENTATION",
        content_description="Automatic segmentation, research use",
        series_description="VQ-Seg segmentation",
        omit_empty_frames=bool(frames.any()),
        specific_character_set=character_set,
    )


def check_segment_codes(
    segment_codes: Mapping[str, Any] | None, labels: Mapping[int, str]
) -> dict[str, tuple[_Code, _Code]]:
    """Category and type of every foreground label, in SNOMED CT or another coding scheme.

    Args:
        segment_codes: label name to ``[value, scheme, meaning]``, the type, such as ``["10200004", "SCT", "Liver"]``,
            or to ``{"category": [...], "type": [...]}``. The default is "Anatomical Structure" (91723000, SCT).
        labels: class index to name, background (0) included.

    Returns:
        label name to (category, type), each (value, scheme, meaning).

    Raises:
        ValueError: a label is unknown, or an entry has another form.
    """
    names = [name for _, name in sorted(labels.items())[1:]]
    given = dict(segment_codes or {})
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ValueError(f"segment_codes names {', '.join(map(repr, unknown))}, but the labels are {', '.join(names)}.")
    coded = {}
    for name in names:
        entry = given.get(name, {})
        parts = entry if isinstance(entry, Mapping) else {"type": entry}
        if not set(parts) <= {"category", "type"}:
            raise ValueError(f"segment_codes, {name!r}: the keys are 'category' and 'type', got {list(parts)}.")
        coded[name] = (_to_code(parts.get("category"), name), _to_code(parts.get("type"), name))
    return coded


def _to_code(entry: Any, name: str) -> _Code:
    entry = _GENERAL if entry is None else entry
    if isinstance(entry, str) or len(entry) != 3 or not all(isinstance(part, str) and part for part in entry):
        raise ValueError(
            f"segment_codes, {name!r}: a code is [value, scheme, meaning], three texts such as "
            f'["10200004", "SCT", "Liver"], got {entry!r}.'
        )
    value, scheme, meaning = entry
    return value, scheme, meaning


def _on_source_grid(classes: np.ndarray, affine: np.ndarray, source: VolumeHeader, where: str) -> np.ndarray:
    """Frames ``(slices, rows, columns)``, uint8 or uint16, in the sources' order; DataError if voxels are elsewhere."""
    grid, shape = source.affine, source.shape
    turns = nib.orientations.io_orientation(np.linalg.inv(grid) @ affine)
    if classes.ndim != 3 or np.isnan(turns).any():
        raise DataError(f"{where}: the class map must be a volume on the grid of the series, found {classes.shape}.")
    turned = nib.orientations.apply_orientation(classes, turns)
    turned_affine = affine @ nib.orientations.inv_ornt_aff(turns, classes.shape)
    distance = corner_distance(turned_affine, grid, shape)
    voxel = np.linalg.norm(grid[:3, :3], axis=0).min()
    if turned.shape != shape or distance > _TOLERANCE * voxel:
        raise DataError(
            f"{where}: the class map must lie on the grid of the series, {shape} voxels; found {turned.shape}, corners "
            f"up to {distance:.4g} mm away. Invert the prediction to the image's own grid first."
        )
    kind = np.uint8 if turned.max(initial=0) <= np.iinfo(np.uint8).max else np.uint16
    return np.ascontiguousarray(turned.transpose(2, 1, 0)).astype(kind)


class SaveDicomSegd(MapTransform):
    """Write ``<case>_seg.dcm`` for every prediction whose image is a DICOM series; others are passed on.

    A series that lacks an attribute that a segmentation must refer to, such as its study's UID, gets a warning in the
    log and no file, and so does one that DICOM's libraries refuse for any other reason. The segmentation is not lost,
    since SaveImaged has written it.

    Args:
        keys: class indices ``(1, X, Y, Z)`` as MetaTensors on their image's grid.
        output_dir: the folder to write to, created if missing.
        labels: class index to name, background (0) included.
        segment_codes: see :func:`~vqseg_bundle.data.check_segment_codes`.
        image_key: the image, a MetaTensor with its path in its meta data.
        allow_missing_keys: skip missing keys.

    Raises:
        ValueError: ``segment_codes`` does not have the described form.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        labels: Mapping[int, str],
        segment_codes: Mapping[str, Any] | None = None,
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_segment_codes(segment_codes, labels)
        self.output_dir = Path(output_dir)
        self.labels = dict(labels)
        self.segment_codes = segment_codes
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; the data are returned unchanged."""
        source = str(data[self.image_key].meta.get(ImageMetaKey.FILENAME_OR_OBJ, ""))
        if volume_kind(source) == "dicom":
            for key in self.key_iterator(dict(data)):
                self._write(data[key], source, str(data.get("case") or Path(source).name))
        return dict(data)

    def _write(self, pred: Any, source: str, case: str) -> None:
        path = self.output_dir / f"{case}_seg.dcm"
        classes = pred[0].as_tensor().cpu().numpy().round().astype("uint16")
        affine = pred.affine.cpu().numpy()
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            write_dicom_seg(classes, affine, series_files(source), self.labels, path, self.segment_codes)
        except Exception as error:  # anonymised files make highdicom and pydicom raise errors of every kind
            path.unlink(missing_ok=True)
            reason = str(error) if isinstance(error, DataError) else error_reason(error)
            logger.warning("%s: no DICOM SEG is written, its segmentation is only in NIfTI (%s)", case, reason)
