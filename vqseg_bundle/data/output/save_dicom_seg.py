"""Saves predictions on DICOM series as DICOM SEG, beside what SaveImaged writes."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from ..errors import DataError
from ..formats import error_reason, series_files, volume_kind
from .dicom_seg import check_segment_codes, write_dicom_seg

__all__ = ["SaveDicomSegd"]

logger = logging.getLogger(__name__)


class SaveDicomSegd(MapTransform):
    """Write ``<case>_seg.dcm`` for every prediction whose image is a DICOM series; others pass untouched.

    A series that lacks what a segmentation must refer to, such as its study's UID, gets a warning in the log and no
    file, and so does one that DICOM's libraries refuse for any other reason: the segmentation itself is not lost,
    SaveImaged has written it.

    Args:
        keys: class indices ``(1, X, Y, Z)`` as MetaTensors on their image's grid.
        output_dir: the folder to write to, made if missing.
        labels: class index to name, background (0) included.
        segment_codes: see :func:`~vqseg_bundle.data.check_segment_codes`.
        image_key: the image, a MetaTensor that knows the path it was loaded from.
        allow_missing_keys: skip keys that are not there.

    Raises:
        ValueError: ``segment_codes`` is not of the described form.
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
        """Write the files; the data are returned as they came."""
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
        except Exception as error:  # what anonymisers leave makes highdicom and pydicom raise errors of every kind
            path.unlink(missing_ok=True)
            reason = str(error) if isinstance(error, DataError) else error_reason(error)
            logger.warning("%s: no DICOM SEG is written, its segmentation is in NIfTI alone (%s)", case, reason)
