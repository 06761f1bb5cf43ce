"""DICOM as scanners, archives and anonymisers leave it: what is read all the same, corrected, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from support.data_parts import RAS_AFFINE, compress_dicom, edit_dicom, hounsfield, set_tags, write_dicom

from vqseg_bundle.data import DataError, list_volumes, read_header, read_voxels
from vqseg_bundle.data.formats.dicom_slices import list_series

SHAPE = (7, 6, 5)
AXIAL = np.diag([-0.8, -0.8, 3.0, 1.0])


def centres(files: list[Path]) -> np.ndarray:
    """RAS positions of the four corner pixels of each file, by PS3.3 C.7.6.2.1.1 as it is written down there."""
    found = []
    for file in files:
        dataset = pydicom.dcmread(file, force=True)
        x, y = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
        rows, columns = map(float, dataset.PixelSpacing)
        for column in (0, dataset.Columns - 1):
            for row in (0, dataset.Rows - 1):
                place = np.array(dataset.ImagePositionPatient, float) + x * columns * column + y * rows * row
                found.append(place * [-1, -1, 1])
    return np.array(found)


def centres_by_affine(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    indices = [(i, j, k) for k in range(shape[2]) for i in (0, shape[0] - 1) for j in (0, shape[1] - 1)]
    return nib.affines.apply_affine(affine, np.array(indices))


def without_preamble(file: Path) -> None:
    file.write_bytes(file.read_bytes()[132:])


def without_meta(file: Path) -> None:
    """A bare data set in implicit VR, as before DICOM had files."""
    dataset = pydicom.dcmread(file)
    del dataset.file_meta
    dcmwrite(file, dataset, implicit_vr=True, little_endian=True)


def big_endian(file: Path) -> None:
    dataset = pydicom.dcmread(file)
    dataset.PixelData = dataset.pixel_array.astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dcmwrite(file, dataset)


def implicit(file: Path) -> None:
    dataset = pydicom.dcmread(file)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dcmwrite(file, dataset)


@pytest.mark.parametrize("store", [without_preamble, without_meta, big_endian, implicit, compress_dicom])
def test_every_way_of_storing_gives_the_same_volume(tmp_path: Path, store: Callable[[Path], None]):
    for file in write_dicom(tmp_path / "s", hounsfield(SHAPE)):
        store(file)
    (case,) = list_volumes(tmp_path)
    np.testing.assert_array_equal(read_voxels(case["image"]), hounsfield(SHAPE))
    np.testing.assert_allclose(read_header(case["image"]).affine, RAS_AFFINE, atol=1e-9)


def test_files_that_start_like_dicom_are_not_taken_for_it(tmp_path: Path):
    write_dicom(tmp_path / "s", hounsfield(SHAPE))
    (tmp_path / "s" / "notes").write_bytes(b"\x08\x00\x05\x00CS\x02\x00ab and so on" * 9)
    (tmp_path / "s" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "s" / "LICENSE").write_bytes(b"")
    (tmp_path / "s" / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"\xff" * 9)
    assert list(list_series(tmp_path / "s").values()) == [5]
    assert read_header(str(tmp_path / "s")).shape == SHAPE


def cosines_that_drift(files: list[Path]) -> None:
    for index, file in enumerate(files):
        edit_dicom(file, set_tags(ImageOrientationPatient=[1, 0, 0, 0, 1, index * 1e-4]))


def spacing_that_jitters(files: list[Path]) -> None:
    for index, file in enumerate(files):
        edit_dicom(file, set_tags(PixelSpacing=[0.8, 0.8 + (index % 2) * 8e-5]))


def three_decimals(files: list[Path]) -> None:
    for file in files:
        edit_dicom(file, set_tags(ImageOrientationPatient=[0.921, 0.389, 0, -0.389, 0.921, 0]))


def tilted(files: list[Path]) -> None:
    for index, file in enumerate(files):
        edit_dicom(file, set_tags(ImagePositionPatient=[0, 0.8 * index, 3 * index]))


def without_thickness(files: list[Path]) -> None:
    for file in files:
        edit_dicom(file, set_tags(SliceThickness=None))


@pytest.mark.parametrize(
    "change", [cosines_that_drift, spacing_that_jitters, three_decimals, tilted, without_thickness]
)
def test_every_pixel_lies_where_the_header_says(tmp_path: Path, change: Callable[[list[Path]], None]):
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE), AXIAL)
    change(files)
    affine = read_header(str(tmp_path / "s")).affine
    np.testing.assert_allclose(centres_by_affine(affine, SHAPE), centres(files), atol=4e-3)  # of 0.8 mm pixels
    np.testing.assert_allclose(affine[:3, :2].T @ affine[:3, :2], 0.64 * np.eye(2), atol=1e-4)


def test_directions_that_drift_are_averaged(tmp_path: Path):
    cosines_that_drift(write_dicom(tmp_path / "s", hounsfield(SHAPE), AXIAL))
    assert read_header(str(tmp_path / "s")).affine[2, 1] == pytest.approx(0.8 * 2e-4)


def test_a_single_slice_without_thickness_is_a_millimetre_thick(tmp_path: Path):
    (file,) = write_dicom(tmp_path / "s", hounsfield((7, 6, 1)), AXIAL)
    edit_dicom(file, set_tags(SliceThickness=""))
    np.testing.assert_allclose(read_header(str(tmp_path / "s")).affine, np.diag([-0.8, -0.8, 1.0, 1.0]), atol=1e-9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.999, 0.045]}, "one ImageOrientationPatient, found .* IM000"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.3, 1, 0]}, "two unit vectors at a right angle, found .*0.3, 1.0"),
        ({"PixelSpacing": [0.8, 0.802]}, "one PixelSpacing, found"),
        ({"ImagePositionPatient": [1.5, 0, 6]}, r"found IM000\d 1.5 mm beside the line through the first and the last"),
    ],
)
def test_what_no_affine_describes_is_refused(tmp_path: Path, values: dict, message: str):
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE), AXIAL)
    edit_dicom(files[2], set_tags(**values))
    with pytest.raises(DataError, match=message):
        read_header(str(tmp_path / "s"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]},
            r"IM\d{4}: expected a slice a file, found many side by side in one \(MOSAIC in ImageType\); convert it to",
        ),
        (
            {"PixelSpacing": [-0.8, 0.8]},
            r"IM\d{4}: expected positive voxel spacing \(PixelSpacing\), found \[-0.8, 0.8\]; export the series",
        ),
        ({"PixelSpacing": [0.8, 0]}, r"expected positive voxel spacing \(PixelSpacing\), found \[0.8, 0.0\]; export"),
        (
            {"RescaleSlope": 0},
            r"IM\d{4}: expected a RescaleSlope other than 0, found 0, by which all its values would be the same",
        ),
    ],
)
@pytest.mark.parametrize("count", [1, 5])
def test_what_would_be_read_as_something_else_is_refused(tmp_path: Path, values: dict, message: str, count: int):
    files = write_dicom(tmp_path / "s", hounsfield((7, 6, count)), AXIAL)
    edit_dicom(files[-1], set_tags(**values))
    for read in (read_header, read_voxels):
        with pytest.raises(DataError, match=message):
            read(str(tmp_path / "s"))


def test_slices_of_two_frames_of_reference_are_no_volume(tmp_path: Path):
    message = (
        r"s: expected slices of one FrameOfReferenceUID, found 1\.2\.3 in IM\d{4} and 1\.2\.4 in IM\d{4}, "
        r"whose positions are not comparable; put them into folders of their own\.$"
    )
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE), AXIAL, FrameOfReferenceUID="1.2.3")
    assert read_header(str(tmp_path / "s")).shape == SHAPE
    for file in files[2:]:
        edit_dicom(file, set_tags(FrameOfReferenceUID="1.2.4"))
    with pytest.raises(DataError, match=message):
        read_header(str(tmp_path / "s"))
    for file in files:
        edit_dicom(file, set_tags(FrameOfReferenceUID="1.2.4" if file != files[3] else None))
    with pytest.raises(
        DataError, match=rf"{files[3].name}: expected FrameOfReferenceUID as in other slices of its series, found none"
    ):
        read_header(str(tmp_path / "s"))
