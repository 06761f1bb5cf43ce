"""The same small images in every format that the bundle reads, and a cohort of three small cases with its check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from vqseg_bundle.data import Cohort, DataError, LoadVolumed, check_cohort

__all__ = [
    "RAS_AFFINE",
    "compress_dicom",
    "edit_dicom",
    "hounsfield",
    "load_channels_first",
    "set_tags",
    "write_dicom",
    "write_picture",
    "write_segments",
    "write_volume",
]

#: Axes lead to the left, to the back and to the head, as an axial CT's do; turned a little about the first one.
RAS_AFFINE = np.array(
    [
        [-0.8, 0.0, 0.0, 11.0],
        [0.0, -0.9 * np.cos(0.2), -3.0 * np.sin(0.2), -23.0],
        [0.0, -0.9 * np.sin(0.2), 3.0 * np.cos(0.2), 5.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def hounsfield(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Whole numbers in Hounsfield's range, int16."""
    return np.random.default_rng(seed).integers(-1000, 1000, tuple(shape)).astype(np.int16)


def write_volume(path: Path, voxels: np.ndarray, affine: np.ndarray = RAS_AFFINE) -> Path:
    """Write ``(X, Y, Z)``: the suffix chooses NIfTI, NRRD, MetaImage or NPY; no suffix, a folder of DICOM slices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(voxels, affine), path)
    elif path.suffix == ".npy":
        np.save(path, voxels)
    elif path.suffix:
        _write_itk(path, voxels, affine)
    else:
        write_dicom(path, voxels, affine)
    return path


def load_channels_first(path: Path) -> torch.Tensor:
    """An image as the bundle's transforms load it."""
    return Compose([LoadVolumed("x"), EnsureChannelFirstd("x")])({"x": str(path)})["x"]


def write_picture(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """Write ``(H, W)`` or ``(H, W, C)`` as the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels).save(path, **options)
    return path


def write_segments(path: Path, classes: np.ndarray, affine: np.ndarray, names: dict[int, str]) -> Path:
    """Write a segmentation as 3D Slicer does, ``.seg.nrrd``, whose header names its values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    vectors = [f"({','.join(map(str, column[:3]))})" for column in lps.T]
    fields = {
        "type": "uint8",
        "dimension": 3,
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, classes.shape)),
        "space directions": " ".join(vectors[:3]),
        "encoding": "raw",
        "space origin": vectors[3],
    }
    segments = [
        f"Segment{number}_Name:={name}\nSegment{number}_LabelValue:={value}\n"
        for number, (value, name) in enumerate(names.items())
    ]
    header = "".join(["NRRD0004\n", *(f"{key}: {value}\n" for key, value in fields.items()), *segments, "\n"])
    path.write_bytes(header.encode() + classes.astype(np.uint8).tobytes(order="F"))
    return path


def write_dicom(
    folder: Path, voxels: np.ndarray, affine: np.ndarray = RAS_AFFINE, uid: str | None = None, **attributes: Any
) -> list[Path]:
    """Write CT slices with stored values of 1024 more than the voxels, in an order that is not that of their names.

    Args:
        folder: made if missing.
        voxels: ``(columns, rows, slices)``, Hounsfield units.
        affine: to RAS.
        uid: SeriesInstanceUID.
        attributes: further attributes of every slice; a list of one value a slice where it is as long.

    Returns:
        The files, from the first slice to the last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    uid, count = uid or generate_uid(), voxels.shape[2]
    names = np.random.default_rng(count).permutation(count)
    files = []
    for index in range(count):
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.SeriesInstanceUID, dataset.Modality = uid, "CT"
        dataset.InstanceNumber = int(names[index])
        dataset.ImagePositionPatient = [float(v) for v in lps[:3, 3] + index * lps[:3, 2]]
        dataset.ImageOrientationPatient = [*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1])]
        dataset.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        dataset.SliceThickness = float(spacing[2])
        dataset.Rows, dataset.Columns = voxels.shape[1], voxels.shape[0]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = (voxels[:, :, index].T + 1024).astype(np.uint16).tobytes()
        for name, value in attributes.items():
            setattr(dataset, name, value[index] if isinstance(value, list) and len(value) == count else value)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        files.append(folder / f"IM{names[index]:04d}")
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


def edit_dicom(file: Path, change: Callable[[Dataset], object]) -> None:
    """Change a slice in place."""
    dataset = pydicom.dcmread(file)
    change(dataset)
    dataset.save_as(file)


def set_tags(**values: object) -> Callable[[Dataset], None]:
    """A change for :func:`edit_dicom`: attributes by name."""

    def change(dataset: Dataset) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)

    return change


def compress_dicom(file: Path) -> None:
    """Losslessly, by run lengths."""
    edit_dicom(file, lambda dataset: dataset.compress(RLELossless))


def _write_itk(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    import itk  # takes seconds to import

    image = itk.image_from_array(np.ascontiguousarray(voxels.T))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetDirection(itk.matrix_from_array(lps[:3, :3] / spacing))
    image.SetOrigin(lps[:3, 3])
    itk.imwrite(image, str(path))


LABELS = {0: "background", 1: "organ"}


AFFINE = np.diag([1.5, 1.5, 6.0, 1.0])


SHAPE = (8, 7, 5)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)


def make_case(folder: Path, name: str, seed: int = 0, labeled: bool = True) -> dict[str, str]:
    rng = np.random.default_rng([seed, len(name), *name.encode()])
    case = {"image": save(folder / f"{name}.nii.gz", rng.integers(0, 99, SHAPE).astype(np.int16))}
    if labeled:
        case["label"] = save(folder / f"{name}_label.nii.gz", rng.integers(0, 2, SHAPE).astype(np.uint8))
    return {**case, "case": name, "patient": name}


def make_cohort(folder: Path) -> Cohort:
    return Cohort(
        name="n",
        labels=LABELS,
        training=[make_case(folder, "a")],
        unlabeled=[make_case(folder, "b", labeled=False)],
        validation=[make_case(folder, "c")],
        source="list.json",
    )


def refused(cohort: Cohort, message: str, **options: object) -> None:
    with pytest.raises(DataError, match=message):
        check_cohort(cohort, 1, progress=False, **options)


def patch_header(path: Path, offset: int, content: bytes) -> None:
    """Overwrite a part of an unpacked NIfTI file, such as what nibabel would not write."""
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(bytes(whole))
