"""Predictions as NIfTI on the grid of their source, with the source's geometry, named by case."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import DtypeLike, KeysCollection, NdarrayOrTensor, PathLike
from monai.data import NibabelWriter
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from vqseg_bundle.common import SOURCE

from ..errors import DataError
from ..formats.nifti import open_nifti, scale_to_mm
from ..formats.table import volume_kind
from ..formats.volume_io import values_of_classes
from ..formats.volume_path import channel_paths

__all__ = ["SOURCE_KEY", "KeepSourced", "NameByCased", "VolumeWriter", "class_map_dtype"]
#: meta key of the path of a prediction's image, if "filename_or_obj" names something else
SOURCE_KEY = "source"
_SAME_PLACE = 0.01  # of a voxel's smallest side
#: a header's free texts, in which converters may leave a patient's name
_TEXTS = {"descrip", "aux_file", "db_name", "data_type"}
_SCANNER = 1  # code of the scanner's own coordinates
_NO_SHEAR = 1e-4  # cosine between axes


class KeepSourced(MapTransform):
    """Add the file name in an image's meta data as a text, which batches collate to a list.

    Place this before the transform that removes the meta data.

    Args:
        keys: the image; the last one if there are several.
        name: key of the text, which is empty if nothing is known.
        allow_missing_keys: skip missing keys.
    """

    def __init__(self, keys: KeysCollection, name: str = SOURCE, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.name = name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the text."""
        output = dict(data)
        for key in self.key_iterator(output):
            meta = getattr(output[key], "meta", {})
            output[self.name] = str(meta.get(ImageMetaKey.FILENAME_OR_OBJ, ""))
        return output


def class_map_dtype(values: Iterable[int | str]) -> np.dtype:
    """The smallest dtype for all values of a class map: uint8 up to 255, then uint16, and so on.

    Args:
        values: the possible values, whole numbers or their text.
    """
    numbers = [int(value) for value in values]
    return np.result_type(np.uint8, *(np.min_scalar_type(number) for number in (min(numbers), max(numbers))))


class NameByCased(MapTransform):
    """Give predictions their case's id as file name, for SaveImaged; the path of their source is kept too.

    Two images may share a file name, and an image may be outside the dataset's folder; case ids are unique, so
    predictions neither overwrite each other nor leave the output folder. Without a "case" the name is kept.

    Args:
        keys: MetaTensors to name.
        allow_missing_keys: skip missing keys.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Set the file name in the meta data of every key."""
        output = dict(data)
        for key in self.key_iterator(output):
            if "case" in output:
                named = output[key].clone()
                source = named.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "")
                name = {ImageMetaKey.FILENAME_OR_OBJ: f"{output['case']}.nii.gz", SOURCE_KEY: source}
                named.meta = {**named.meta, **name}
                output[key] = named
        return output


class VolumeWriter(NibabelWriter):
    """MONAI's NibabelWriter that copies the source's geometry.

    From a NIfTI source, qform, sform, their codes, units, version and number of axes are copied, so that prediction and
    source overlay exactly in every program, whichever form it reads. The affine of any other source becomes sform and
    qform, in mm, with code 1 (scanner); if it is sheared, there is no qform, which cannot express shear. If the
    source's channels are in separate files, the first is copied.

    Args:
        output_dtype: dtype of the voxels.
        label_values: class index to the value written for it; None or empty for class indices.
        kwargs: further arguments of NibabelWriter.
    """

    def __init__(
        self, output_dtype: DtypeLike = np.float32, label_values: Mapping[int, int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(output_dtype=output_dtype, **kwargs)
        self.label_values = dict(label_values or {})

    def set_data_array(
        self,
        data_array: NdarrayOrTensor,
        channel_dim: int | None = 0,
        squeeze_end_dims: bool = True,
        **kwargs: Any,
    ) -> None:
        """Set the array; a single channel's axis is removed if ``squeeze_end_dims``."""
        super().set_data_array(data_array, channel_dim, squeeze_end_dims=False, **kwargs)
        if squeeze_end_dims and self.data_obj.ndim > 3 and self.data_obj.shape[-1] == 1:
            self.data_obj = self.data_obj[..., 0]

    def set_metadata(self, meta_dict: Mapping | None, resample: bool = True, **options: Any) -> None:
        """Set the affine and the path of the source; classes become their values here, by the volume's own axes."""
        if resample:
            super().set_metadata(meta_dict, resample, **options)
        else:  # MONAI 1.6 takes three axes for two here, and fails where the third is not from feet to head
            affine = self.get_meta_info(meta_dict)[1]
            self.affine = np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64)
        if self.label_values:
            self.data_obj = values_of_classes(np.asarray(self.data_obj), self.label_values)
        meta = meta_dict or {}
        self.source = channel_paths(meta.get(SOURCE_KEY) or meta.get(ImageMetaKey.FILENAME_OR_OBJ) or "")[0]
        original = meta.get("original_affine")
        self.original_affine = None if original is None else np.asarray(original, dtype=np.float64)

    def write(self, filename: PathLike, verbose: bool = False, **obj_kwargs: Any) -> None:
        """Write the file.

        Raises:
            DataError: the array is not on the source's grid.
        """
        voxels = np.asarray(self.create_backend_obj(self.data_obj, self.affine, self.output_dtype).dataobj)
        image = self._like_nifti(voxels) if volume_kind(self.source) == "nifti" else self._like_other(voxels)
        nib.save(image, filename)

    def _like_nifti(self, voxels: np.ndarray) -> Any:
        source = open_nifti(self.source)
        two = isinstance(source.header, nib.Nifti2Header)
        # a single file's header, also for a pair: the fields are the same except the magic word
        stored = (nib.Nifti2Header if two else nib.Nifti1Header)(
            source.header.binaryblock, source.header.endianness, False
        )
        header = stored.as_byteswapped("<")
        header["magic"] = header.single_magic
        affine = np.asarray(source.affine, dtype=np.float64)
        factor = scale_to_mm(source)
        self._check_place(np.diag([factor, factor, factor, 1.0]) @ affine)
        if voxels.shape[:3] != (*source.shape, 1)[:3]:
            raise DataError(
                f"{self.source}: expected a prediction of {source.shape[:3]} voxels, found {voxels.shape}; invert it "
                "to the image's own grid first."
            )
        if len(source.shape) == 2 and voxels.shape[2:] == (1,):
            voxels = voxels[..., 0]
        header.set_data_dtype(voxels.dtype)
        pixdim = header["pixdim"].copy()
        header.set_data_shape(voxels.shape)
        header["pixdim"] = pixdim  # nibabel sets those of removed axes to 1
        header.set_slope_inter(1, 0)
        header.set_intent("none")
        header["cal_min"] = header["cal_max"] = 0
        for text in _TEXTS.intersection(header.keys()):
            header[text] = b""
        # the header's own affine, so that nibabel leaves both forms unchanged
        return (nib.Nifti2Image if two else nib.Nifti1Image)(voxels, header.get_best_affine(), header)

    def _like_other(self, voxels: np.ndarray) -> Any:
        affine = self.original_affine if self.original_affine is not None else np.asarray(self.affine, dtype=np.float64)
        self._check_place(affine)
        image = nib.Nifti1Image(voxels, affine)
        sides = np.linalg.norm(affine[:3, :3], axis=0)
        cosines = (affine[:3, :3] / sides).T @ (affine[:3, :3] / sides) - np.eye(3)
        image.set_sform(affine, _SCANNER)
        image.set_qform(affine, _SCANNER if np.abs(cosines).max() < _NO_SHEAR else 0)
        image.header.set_xyzt_units("mm")
        return image

    def _check_place(self, affine: np.ndarray) -> None:
        """Raise DataError if the array's affine, in mm, is not the source's."""
        own = np.asarray(self.affine, dtype=np.float64)
        limit = _SAME_PLACE * np.linalg.norm(affine[:3, :3], axis=0).min()
        corner = np.array([*(size - 1 for size in self.data_obj.shape[:3]), 1.0])
        apart = max(np.linalg.norm((own - affine)[:3, 3]), np.linalg.norm(((own - affine) @ corner)[:3]))
        if apart > limit:
            raise DataError(
                f"{self.source}: expected a prediction on the image's own grid, found corners {apart:.4g} mm away; "
                "invert it to that grid first."
            )
