"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd) volumes, by ITK."""

from __future__ import annotations

from typing import Any

import itk
import numpy as np
from monai.data import ITKReader
from monai.data.utils import orientation_ras_lps

from ..errors import DataError
from .volume_header import VolumeHeader

__all__ = ["read_itk", "read_itk_header"]


def read_itk_header(path: str) -> VolumeHeader:
    """Read the geometry without the voxels; a flat image becomes a volume of one slice.

    Raises:
        DataError: ITK does not know the content.
        RuntimeError: ITK cannot read it.
    """
    image_io = _open(path)
    dims = image_io.GetNumberOfDimensions()
    sizes = [int(image_io.GetDimensions(axis)) for axis in range(dims)]
    components = int(image_io.GetNumberOfComponents())
    shape = (*_spatial(tuple(sizes)), *([components] if components > 1 else []))
    return VolumeHeader(shape, _affine(image_io, dims))


def read_itk(path: str) -> np.ndarray:
    """Read the voxels ``(X, Y, Z)`` in their stored type, or ``(X, Y, Z, C)`` as float32.

    Raises:
        RuntimeError: ITK cannot read the file.
    """
    reader, header = ITKReader(), read_itk_header(path)
    image_io = _open(path)
    if image_io.GetNumberOfComponents() == 1:
        image = reader.read(path)
    else:
        # ITK has vectors of few stored types alone
        file = itk.ImageFileReader[itk.VectorImage[itk.F, image_io.GetNumberOfDimensions()]].New(FileName=path)
        file.Update()
        image = file.GetOutput()
    voxels, _ = reader.get_data(image)
    return np.asarray(voxels).reshape(header.shape)


def _open(path: str) -> Any:
    image_io = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
    if image_io is None:
        raise DataError(f"{path}: expected an NRRD or MetaImage file, found other content; convert or correct it.")
    image_io.SetFileName(path)
    image_io.ReadImageInformation()
    return image_io


def _spatial(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return (*sizes, 1) if len(sizes) == 2 else sizes


def _affine(image_io: Any, dims: int) -> np.ndarray:
    """From ITK's LPS to RAS, as nibabel has it."""
    axes = min(dims, 3)
    affine = np.eye(4)
    for axis in range(axes):
        affine[:axes, axis] = np.asarray(image_io.GetDirection(axis))[:axes] * image_io.GetSpacing(axis)
        affine[axis, 3] = image_io.GetOrigin(axis)
    return np.asarray(orientation_ras_lps(affine))
