"""LoadImaged for every format: a MONAI reader that uses the format's record, and its transform."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection, PathLike
from monai.data import ImageReader
from monai.transforms import LoadImaged
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from .table import find_format
from .volume_io import read_header, read_voxels

__all__ = ["OTHER_AFFINE", "LoadVolumed", "VolumeReader"]

#: meta key of the file's other affine; the same as the used one if there is no other
OTHER_AFFINE = "other_affine"


class VolumeReader(ImageReader):
    """Read every format that :mod:`vqseg_bundle.data.formats.volume_io` knows, as the data check does.

    Args:
        is_label: see :func:`~vqseg_bundle.data.read_voxels`.
        label_values: see :func:`~vqseg_bundle.data.read_voxels`.
    """

    def __init__(self, is_label: bool = False, label_values: Mapping[int, int] | None = None) -> None:
        super().__init__()
        self.is_label = is_label
        self.label_values = dict(label_values or {})

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether all paths have a known format."""
        return all(find_format(str(name)) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> str:
        """The single path, which :meth:`get_data` reads.

        Raises:
            ValueError: there are several paths.
        """
        paths = ensure_tuple(data)
        if len(paths) != 1:
            raise ValueError(f"expected one path a volume, found {len(paths)}; join those of its channels by |.")
        return str(paths[0])

    def get_data(self, img: str) -> tuple[np.ndarray, dict]:
        """Voxels ``(X, Y, Z)`` or ``(X, Y, Z, C)``, and their meta data for a MetaTensor.

        Args:
            img: from :meth:`read`.

        Raises:
            DataError: see :func:`~vqseg_bundle.data.read_voxels`.
        """
        header, voxels = read_header(img), read_voxels(img, self.is_label, self.label_values)
        meta = {
            MetaKeys.AFFINE: header.affine,
            MetaKeys.ORIGINAL_AFFINE: header.affine.copy(),
            OTHER_AFFINE: header.affine if header.other_affine is None else header.other_affine,
            MetaKeys.SPATIAL_SHAPE: np.asarray(header.spatial_shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if voxels.ndim > 3 else float("nan"),
            MetaKeys.SPACE: SpaceKeys.RAS,
        }
        return voxels, meta


class LoadVolumed(LoadImaged):
    """MONAI's LoadImaged with only :class:`VolumeReader`: MONAI would try its other readers if one refuses.

    Args:
        keys: paths, see :mod:`vqseg_bundle.data.formats.volume_path`; they become float32 MetaTensors.
        is_label: whether they are labels, which become class indices, see :func:`~vqseg_bundle.data.read_voxels`.
        allow_missing_keys: skip missing keys.
        label_values: class index to its value in label files; None or empty for class indices.
    """

    def __init__(
        self,
        keys: KeysCollection,
        is_label: bool = False,
        allow_missing_keys: bool = False,
        label_values: Mapping[int, int] | None = None,
    ) -> None:
        self.reader = VolumeReader(is_label, label_values)
        super().__init__(keys, reader=self.reader, allow_missing_keys=allow_missing_keys)  # type: ignore[arg-type]

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        """Load every key.

        Raises:
            DataError: see :func:`~vqseg_bundle.data.read_voxels`.
        """
        return super().__call__(data, reader or self.reader)
