"""A small CT series, a class map of it, and where both lie, for the tests of DICOM SEG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import torch
from monai.data import MetaTensor
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

__all__ = [
    "COLUMNS",
    "LABELS",
    "OBLIQUE",
    "ROWS",
    "SLICES",
    "STRAIGHT",
    "class_map",
    "places",
    "places_in_file",
    "prediction",
    "write_series",
]

LABELS = {0: "background", 1: "lung", 2: "lesion", 3: "absent one"}
ROWS, COLUMNS, SLICES = 7, 9, 5
STEP = 4.0
STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.96, 0.28, 0.0, -0.168, 0.576, 0.8)


def write_series(
    folder: Path, orientation: Sequence[float] = STRAIGHT, reverse: bool = False, count: int = SLICES
) -> tuple[list[Path], np.ndarray]:
    """CT slices, file names against their order where ``reverse``; and the affine (column, row, slice) to RAS mm."""
    folder.mkdir(parents=True)
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    normal, origin = np.cross(across, down), np.array([-31.0, 12.5, 7.25])
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    files = []
    for index in range(count):
        dataset = ct_slice(study, series, frame)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.ImagePositionPatient = [round(float(v), 6) for v in origin + index * STEP * normal]
        dataset.ImageOrientationPatient = list(orientation)
        dataset.InstanceNumber = count - index if reverse else index + 1
        dataset.PixelData = np.zeros((ROWS, COLUMNS), np.int16).tobytes()
        files.append(folder / f"{dataset.InstanceNumber:03d}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    affine = np.eye(4)
    affine[:3] = np.stack([across * 0.8, down * 1.5, normal * STEP, origin], axis=1)
    return sorted(files), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def ct_slice(study: str, series: str, frame: str) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": CTImageStorage,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "FrameOfReferenceUID": frame,
        "PositionReferenceIndicator": "",
        "PatientName": "Doe^Jane",
        "PatientID": "p7",
        "PatientBirthDate": "19600102",
        "PatientSex": "F",
        "StudyDate": "20200304",
        "StudyTime": "101112",
        "StudyID": "1",
        "AccessionNumber": "a5",
        "ReferringPhysicianName": "",
        "Modality": "CT",
        "Manufacturer": "none",
        "SeriesNumber": 3,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PixelSpacing": [1.5, 0.8],
        "SliceThickness": STEP,
        "Rows": ROWS,
        "Columns": COLUMNS,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def class_map(count: int = SLICES) -> np.ndarray:
    """Class 1 on all slices but the first, class 2 on one, class 3 nowhere; no symmetry."""
    classes = np.zeros((COLUMNS, ROWS, count), np.uint8)
    classes[1:6, 2:4, 1:] = 1
    classes[6:8, 1:6, count - 2] = 2
    classes[0, 0, count - 1] = 1
    return classes


def places(classes: np.ndarray, affine: np.ndarray) -> set[tuple[int, float, float, float]]:
    """Class and position (RAS, mm) of every foreground voxel."""
    indices = np.argwhere(classes)
    positions = nib.affines.apply_affine(affine, indices)
    return {
        (int(classes[tuple(index)]), *(round(float(v), 2) + 0.0 for v in position))
        for index, position in zip(indices, positions, strict=True)
    }


def places_in_file(path: Path) -> set[tuple[int, float, float, float]]:
    """The same of a DICOM SEG, read frame by frame by the equation of PS3.3 C.7.6.2.1.1."""
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    row_step, column_step = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    found = set()
    for frame, groups in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        origin = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        segment = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for row, column in np.argwhere(frame):
            x, y, z = origin + cosines[:3] * column_step * column + cosines[3:] * row_step * row
            found.add((segment, round(-x, 2) + 0.0, round(-y, 2) + 0.0, round(z, 2) + 0.0))
    return found


def prediction(path: Path, affine: np.ndarray) -> dict:
    image = MetaTensor(torch.zeros(1, COLUMNS, ROWS, SLICES), affine=affine, meta={"filename_or_obj": str(path)})
    pred = MetaTensor(torch.from_numpy(class_map())[None], affine=affine)
    return {"case": "c1", "image": image, "pred": pred}
