"""Intensities of DICOM as scanners write them: padding, inverted greys and rescaling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from support.data_parts import edit_dicom, hounsfield, set_tags, write_dicom

from vqseg_bundle.data import DataError, read_header, read_voxels

SHAPE = (7, 6, 5)

PADDED = np.zeros(SHAPE, bool)
PADDED[:2, :, 1:] = True


@pytest.mark.parametrize(
    ("level", "tags"),
    [
        (-2000, {0x00280120: -2000}),
        (3000, {0x00280120: 3000}),
        (-1500, {0x00280120: -2000, 0x00280121: -1400}),
        (-1500, {0x00280120: -1400, 0x00280121: -2000}),
    ],
)
def test_padding_becomes_the_smallest_measured_value(tmp_path: Path, level: int, tags: dict):
    voxels = hounsfield(SHAPE)
    stored = np.where(PADDED, level, voxels)
    files = write_dicom(tmp_path / "s", voxels, RescaleIntercept=0, PixelRepresentation=1)
    for index, file in enumerate(files):
        dataset = pydicom.dcmread(file)
        dataset.PixelData = stored[:, :, index].T.astype("<i2").tobytes()
        for tag, value in tags.items():
            dataset.add_new(tag, "SS", value)
        dataset.save_as(file)
    expected = np.where(PADDED, voxels[~PADDED].min(), voxels)
    np.testing.assert_array_equal(read_voxels(str(tmp_path / "s")), expected)


def test_padding_written_as_unsigned_is_understood(tmp_path: Path):
    voxels = np.where(PADDED, -2000, hounsfield(SHAPE))
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE), RescaleIntercept=0, PixelRepresentation=1)
    for index, file in enumerate(files):
        edit_dicom(file, set_tags(PixelData=voxels[:, :, index].T.astype("<i2").tobytes()))
        dataset = pydicom.dcmread(file)
        dataset.add_new(0x00280120, "US", 63536)
        dataset.save_as(file)
    assert read_voxels(str(tmp_path / "s")).min() == voxels[~PADDED].min() > -2000


def test_padding_beyond_the_stored_bits_is_the_value_that_decoding_makes_of_it(tmp_path: Path):
    """Of 12 bits -3024 is 1072, which would be bone."""
    voxels = np.where(PADDED, -3024, np.clip(hounsfield(SHAPE), -1000, 1000))
    signed = {"PixelRepresentation": 1, "BitsStored": 12, "HighBit": 11}
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE), RescaleIntercept=0, **signed)
    for index, file in enumerate(files):
        edit_dicom(file, set_tags(PixelData=voxels[:, :, index].T.astype("<i2").tobytes()))
        dataset = pydicom.dcmread(file)
        dataset.add_new(0x00280120, "SS", -3024)
        dataset.save_as(file)
    expected = np.where(PADDED, voxels[~PADDED].min(), voxels)
    np.testing.assert_array_equal(read_voxels(str(tmp_path / "s")), expected)


def test_a_padding_value_amid_the_others_is_taken_for_a_mistake(tmp_path: Path):
    voxels = hounsfield(SHAPE)
    voxels[3, 3] = 0
    write_dicom(tmp_path / "s", voxels, PixelPaddingValue=1024)
    np.testing.assert_array_equal(read_voxels(str(tmp_path / "s")), voxels)


@pytest.mark.parametrize(
    ("modality", "sign", "expected"),
    [
        ("CT", 0, lambda stored: stored - 1024),  # Hounsfield units are what they are, however they are shown
        ("DX", 0, lambda stored: 4095 - stored - 1024),
        ("DX", 1, lambda stored: -1 - stored - 1024),
    ],
)
def test_monochrome1_rises_with_brightness_but_for_quantities(
    tmp_path: Path, modality: str, sign: int, expected: Callable[[np.ndarray], np.ndarray]
):
    stored = hounsfield(SHAPE).astype(int) + 1024
    write_dicom(
        tmp_path / "s",
        hounsfield(SHAPE),
        PhotometricInterpretation="MONOCHROME1",
        Modality=modality,
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=sign,
    )
    if sign:  # 12 bits hold -2048 to 2047
        stored = np.where(stored > 2047, stored - 4096, stored)
    np.testing.assert_array_equal(read_voxels(str(tmp_path / "s")), expected(stored))


@pytest.mark.parametrize("name", ["RescaleIntercept", "RescaleSlope"])
def test_a_slice_without_the_rescaling_of_the_others_is_named(tmp_path: Path, name: str):
    """In CT it would be off by 1024 HU."""
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE))
    edit_dicom(files[3], lambda dataset: delattr(dataset, name))
    with pytest.raises(DataError, match=rf"{files[3].name}: expected {name} as in other slices of its series, found"):
        read_header(str(tmp_path / "s"))


@pytest.mark.parametrize(
    ("name", "text"), [("RescaleIntercept", "-1024,0"), ("RescaleSlope", "1,00000"), ("RescaleSlope", "one")]
)
def test_a_rescaling_that_is_no_number_is_named(tmp_path: Path, name: str, text: str):
    (*_, file) = write_dicom(tmp_path / "s", hounsfield(SHAPE))
    with pydicom.config.disable_value_validation():
        dataset = pydicom.dcmread(file)
        dataset[name] = pydicom.DataElement(name, "LO", text)
        dataset[name].VR = "DS"
        dataset.save_as(file)
    with pytest.raises(
        DataError, match=rf'{file.name}: expected a number, with a decimal point, found {name} "{text}";'
    ):
        read_header(str(tmp_path / "s"))


def test_pixels_in_the_upper_bits_are_refused(tmp_path: Path):
    """Read as they are, of 12 bits in the upper ones those below would be noise, and the upper ones cut."""
    voxels = np.clip(hounsfield(SHAPE), -1024, 3000)
    files = write_dicom(tmp_path / "s", voxels, BitsStored=12, HighBit=11)
    assert read_header(str(tmp_path / "s")).shape == SHAPE
    edit_dicom(files[2], set_tags(HighBit=15))
    message = rf"{files[2].name}: expected pixels in the lowest bits, HighBit 11 with BitsStored 12, found HighBit 15"
    with pytest.raises(DataError, match=message):
        read_header(str(tmp_path / "s"))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("PhotometricInterpretation", ("MONOCHROME1", "MONOCHROME2")),
        ("PatientID", ("A", "B")),
        ("StudyInstanceUID", ("1.2.3", "1.2.4")),
    ],
)
def test_slices_of_two_patients_studies_or_greys_are_no_series(tmp_path: Path, name: str, values: tuple[str, str]):
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE), **{name: values[0]})
    assert read_header(str(tmp_path / "s")).shape == SHAPE
    edit_dicom(files[3], set_tags(**{name: values[1]}))
    found = " and ".join(f"{value} in IM[0-9]*" for value in values)
    with pytest.raises(DataError, match=rf"s: expected slices of one {name}, found {found}; put them into folders"):
        read_header(str(tmp_path / "s"))
    edit_dicom(files[3], set_tags(**{name: ""}))
    if name != "PhotometricInterpretation":
        assert read_header(str(tmp_path / "s")).shape == SHAPE


@pytest.mark.parametrize(("value", "found"), [([1], "1"), ([1, 1, 1], "3")])
def test_a_spacing_of_another_count_is_named(tmp_path: Path, value: list[float], found: str):
    write_dicom(tmp_path / "s", hounsfield(SHAPE), PixelSpacing=value)
    with pytest.raises(DataError, match=rf"PixelSpacing: expected 2 numbers, found {found}\)"):
        read_header(str(tmp_path / "s"))


def test_a_slope_alone_or_an_empty_one_is_applied(tmp_path: Path):
    write_dicom(tmp_path / "s", hounsfield(SHAPE), RescaleSlope=None, RescaleIntercept=-24)
    np.testing.assert_array_equal(read_voxels(str(tmp_path / "s")), hounsfield(SHAPE) + 1000.0)
