"""DICOM as scanners, archives and anonymisers leave it: what is read all the same, corrected, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless
from support.data_parts import RAS_AFFINE, hounsfield, write_dicom

from vqseg_bundle.data import DataError, list_volumes, read_header, read_voxels
from vqseg_bundle.data.formats.dicom_slices import list_series

SHAPE = (7, 6, 5)
AXIAL = np.diag([-0.8, -0.8, 3.0, 1.0])


def edit(file: Path, change: Callable[[Dataset], object]) -> None:
    dataset = pydicom.dcmread(file)
    change(dataset)
    dataset.save_as(file)


def put(**values: object) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)

    return change


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


def compressed(file: Path) -> None:
    edit(file, lambda dataset: dataset.compress(RLELossless))


@pytest.mark.parametrize("store", [without_preamble, without_meta, big_endian, implicit, compressed])
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
        edit(file, put(ImageOrientationPatient=[1, 0, 0, 0, 1, index * 1e-4]))


def spacing_that_jitters(files: list[Path]) -> None:
    for index, file in enumerate(files):
        edit(file, put(PixelSpacing=[0.8, 0.8 + (index % 2) * 8e-5]))


def three_decimals(files: list[Path]) -> None:
    for file in files:
        edit(file, put(ImageOrientationPatient=[0.921, 0.389, 0, -0.389, 0.921, 0]))


def tilted(files: list[Path]) -> None:
    for index, file in enumerate(files):
        edit(file, put(ImagePositionPatient=[0, 0.8 * index, 3 * index]))


def without_thickness(files: list[Path]) -> None:
    for file in files:
        edit(file, put(SliceThickness=None))


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
    edit(file, put(SliceThickness=""))
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
    edit(files[2], put(**values))
    with pytest.raises(DataError, match=message):
        read_header(str(tmp_path / "s"))


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
        edit(file, put(PixelData=voxels[:, :, index].T.astype("<i2").tobytes()))
        dataset = pydicom.dcmread(file)
        dataset.add_new(0x00280120, "US", 63536)
        dataset.save_as(file)
    assert read_voxels(str(tmp_path / "s")).min() == voxels[~PADDED].min() > -2000


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


def test_a_slope_alone_or_an_empty_one_is_applied(tmp_path: Path):
    write_dicom(tmp_path / "s", hounsfield(SHAPE), RescaleSlope=None, RescaleIntercept=-24)
    np.testing.assert_array_equal(read_voxels(str(tmp_path / "s")), hounsfield(SHAPE) + 1000.0)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def cut_in_the_pixels(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def cut_before_the_pixels(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"\xe0\x7f\x10\x00")])


def cut_before_the_size(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"\x28\x00\x10\x00US")])


def cut_at_the_start(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:140])


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(len(file.read_bytes())))


@pytest.mark.parametrize("place", [0, 2, -1])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (emptied, "is empty"),
        (cut_in_the_pixels, "ends after 54 of 84 bytes of pixels"),
        (cut_before_the_pixels, "ends before its pixels"),
        (cut_before_the_size, "ends before its image's size"),
        (cut_at_the_start, "(ends before it says what it holds|cannot be read as DICOM)"),
        (zeroed, "is no DICOM file"),
    ],
)
def test_a_broken_slice_is_missed_wherever_it_lies(
    tmp_path: Path, damage: Callable[[Path], None], message: str, place: int
):
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE))
    write_dicom(tmp_path / "t", hounsfield(SHAPE))
    damage(files[place])
    broken, sound = list_volumes(tmp_path)
    with pytest.raises(DataError, match=rf"s: 1 slice is missing: {files[place].name} {message}.*; copy it again, or"):
        read_header(broken["image"])
    assert read_header(sound["image"]).shape == SHAPE
    with pytest.raises(DataError, match="missing"):
        read_header(list_volumes(tmp_path, uneven_slices="accept")[0]["image"])


def test_broken_slices_alone_are_a_volume_that_is_refused(tmp_path: Path):
    (tmp_path / "s").mkdir()
    for index in range(5):
        (tmp_path / "s" / f"{index}.dcm").write_bytes(b"")
    (case,) = list_volumes(tmp_path)
    with pytest.raises(
        DataError, match=r"s: 5 slices are missing: 0.dcm is empty, 1.dcm is empty, 2.dcm .* and 2 more"
    ):
        read_header(case["image"])


def test_a_broken_slice_that_says_its_series_counts_against_that_alone(tmp_path: Path):
    folder = tmp_path / "s"
    files = write_dicom(folder, hounsfield(SHAPE), uid="1.2.3")
    for file in write_dicom(tmp_path / "t", hounsfield((4, 4, 3)), uid="1.2.4"):
        file.rename(folder / f"t{file.name}")
    cut_in_the_pixels(files[0])
    with pytest.raises(DataError, match="1 slice is missing"):
        read_header(f"{folder}#1.2.3")
    assert read_header(f"{folder}#1.2.4").shape == (4, 4, 3)


@pytest.mark.parametrize(("place", "at_fault"), [(0, "a"), (4, "ab"), (7, "b")])
def test_an_empty_file_counts_against_the_series_that_its_name_lies_in(tmp_path: Path, place: int, at_fault: str):
    folder = tmp_path / "s"
    files = [*write_dicom(folder, hounsfield(SHAPE), uid="1.2.3"), *write_dicom(tmp_path, hounsfield((4, 4, 4)))]
    files = [file.rename(folder / f"{index}.dcm") for index, file in enumerate(files)]
    emptied(files[place])
    for name, path in zip("ab", sorted(case["image"] for case in list_volumes(tmp_path)), strict=True):
        if name in at_fault:
            with pytest.raises(DataError, match=rf"{place}.dcm is empty"):
                read_header(path)
        else:
            assert read_header(path).shape[2] == {"a": 5, "b": 4}[name]


def test_where_names_of_series_are_mixed_an_empty_file_counts_against_each(tmp_path: Path):
    folder = tmp_path / "s"
    ours = write_dicom(folder, hounsfield(SHAPE), uid="1.2.3")
    other = write_dicom(tmp_path, hounsfield(SHAPE), uid="1.2.4")
    for index, pair in enumerate(zip(ours, other, strict=True)):
        for file, suffix in zip(pair, "ab", strict=True):
            file.rename(folder / f"{index}{suffix}.dcm")
    (folder / "9.dcm").write_bytes(b"")
    for path in (f"{folder}#1.2.3", f"{folder}#1.2.4"):
        with pytest.raises(DataError, match=r"1 slice is missing: 9.dcm is empty"):
            read_header(path)


def test_damaged_files_give_a_message_or_a_volume(tmp_path: Path):
    """Bytes changed and tails cut off, at random: whatever pydicom makes of it, nothing else is raised."""
    rng = np.random.default_rng(0)
    whole = [file.read_bytes() for file in write_dicom(tmp_path / "whole", hounsfield(SHAPE))]
    compressed_files = write_dicom(tmp_path / "rle", hounsfield(SHAPE))
    compressed(compressed_files[0])
    sources = [whole, [compressed_files[0].read_bytes()]]
    folder = tmp_path / "s"
    folder.mkdir()
    refused = 0
    for trial in range(300):
        contents = list(sources[trial % 2])
        spoilt = bytearray(contents[0])
        for _ in range(int(rng.integers(1, 12))):
            spoilt[int(rng.integers(132, len(spoilt)))] = int(rng.integers(256))
        if trial % 5 == 0:
            spoilt = spoilt[: int(rng.integers(len(spoilt)))]
        contents[0] = bytes(spoilt)
        for index, content in enumerate(contents):
            (folder / f"{index}.dcm").write_bytes(content)
        refused += _is_refused(folder)
        for file in folder.iterdir():
            file.unlink()
    assert 100 < refused < 300


def _is_refused(folder: Path) -> bool:
    try:
        for case in list_volumes(folder):
            read_header(case["image"])
            read_voxels(case["image"])
    except DataError:
        return True
    return False
