"""Every format ends in the same axes and affine; pictures and arrays are volumes of one slice; bad files are named."""

from __future__ import annotations

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, SaveImaged
from PIL import Image
from support.bundle_runs import make_volumes
from support.data_parts import RAS_AFFINE, hounsfield, write_picture, write_volume

from vqseg_bundle.data import (
    DataError,
    LoadVolumed,
    VolumeReader,
    read_classes,
    read_header,
    read_voxels,
    source_files,
)
from vqseg_bundle.data.formats.table import volume_kind
from vqseg_bundle.data.formats.volume_path import accepts_uneven, join_volume_path, parse_volume_path

SHAPE = (7, 6, 5)
VOLUMES = ["a.nii.gz", "a.nii", "a.nrrd", "a.nhdr", "a.mha", "a.mhd", "series"]


def load(path: Path, is_label: bool = False) -> torch.Tensor:
    return Compose([LoadVolumed("x", is_label), EnsureChannelFirstd("x")])({"x": str(path)})["x"]


@pytest.mark.parametrize("name", VOLUMES)
def test_one_image_is_the_same_in_every_volume_format(tmp_path: Path, name: str):
    voxels = hounsfield(SHAPE)
    path = write_volume(tmp_path / name, voxels)
    header = read_header(str(path))
    assert header.shape == SHAPE
    np.testing.assert_allclose(header.affine, RAS_AFFINE, atol=1e-5)
    np.testing.assert_array_equal(read_voxels(str(path)), voxels)
    loaded = load(path)
    assert loaded.shape == (1, *SHAPE)
    assert loaded.dtype == torch.float32
    np.testing.assert_array_equal(loaded[0].numpy(), voxels)
    np.testing.assert_allclose(loaded.affine.numpy(), RAS_AFFINE, atol=1e-5)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.npy"])
def test_channels_come_last_in_a_file_and_first_when_loaded(tmp_path: Path, name: str):
    voxels = hounsfield((*SHAPE, 2))
    if name == "a.nrrd":
        fields = f"type: short\ndimension: 4\nsizes: 2 {' '.join(map(str, SHAPE))}\nkinds: vector domain domain domain"
        space = "space: left-posterior-superior\nspace directions: none (1,0,0) (0,1,0) (0,0,1)"
        header = f"NRRD0004\n{fields}\n{space}\nendian: little\nencoding: raw\n\n"
        (tmp_path / name).write_bytes(header.encode() + voxels.transpose(2, 1, 0, 3).astype("<i2").tobytes())
    else:
        write_volume(tmp_path / name, voxels, np.eye(4))
    assert read_header(str(tmp_path / name)).channels == 2
    np.testing.assert_array_equal(load(tmp_path / name).numpy(), np.moveaxis(voxels, -1, 0))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.npy", "a.jpg"])
def test_a_grey_picture_is_a_volume_of_one_slice(tmp_path: Path, name: str):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9)).astype(np.uint8)
    path = write_picture(tmp_path / name, pixels)
    assert read_header(str(path)).shape == (6, 9, 1)
    np.testing.assert_array_equal(read_header(str(path)).affine, np.eye(4))
    found = read_voxels(str(path))[:, :, 0]
    np.testing.assert_array_equal(found, np.asarray(Image.open(path)) if name == "a.jpg" else pixels)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy"])
def test_a_colour_picture_has_three_channels(tmp_path: Path, name: str):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    path = write_picture(tmp_path / name, pixels)
    assert read_header(str(path)).shape == (6, 9, 1, 3)
    np.testing.assert_array_equal(load(path)[..., 0].numpy(), np.moveaxis(pixels, -1, 0))


def test_a_flat_nifti_is_a_volume_of_one_slice(tmp_path: Path):
    pixels = hounsfield((9, 7))
    path = str(tmp_path / "flat.nii.gz")
    nib.save(nib.Nifti1Image(pixels, np.diag([0.5, 0.5, 2.0, 1.0])), path)
    assert read_header(path).shape == (9, 7, 1)
    np.testing.assert_array_equal(read_voxels(path)[..., 0], pixels)
    loaded = LoadVolumed("image")({"image": path})["image"]
    assert loaded.shape == (9, 7, 1)
    np.testing.assert_allclose(loaded.affine, np.diag([0.5, 0.5, 2.0, 1.0]))


#: by EXIF orientation (CIPA DC-008, tag 274): what stored rows and columns are when the picture is held upright
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}], ids=["plain", "compressed"])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_and_its_mask_are_read_upright(tmp_path: Path, orientation: int, name: str, options: dict[str, str]):
    stored = np.arange(24, dtype=np.uint8).reshape(6, 4)
    exif = Image.Exif()
    exif[274] = orientation
    path = str(write_picture(tmp_path / name, stored, exif=exif, **(options if name == "a.tif" else {})))
    expected = UPRIGHT[orientation](stored)
    assert read_header(path).shape == (*expected.shape, 1)
    np.testing.assert_array_equal(read_voxels(path)[..., 0], expected)
    np.testing.assert_array_equal(read_classes(path)[0][..., 0], expected)


def test_a_photograph_is_read_upright_in_colour(tmp_path: Path):
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[:, 8:, 0] = 255
    exif = Image.Exif()
    exif[274] = 6  # held upright it is turned clockwise: what was right is below
    path = str(write_picture(tmp_path / "a.jpg", stored, exif=exif, quality=100, subsampling=0))
    assert read_header(path).shape == (16, 8, 1, 3)
    red = read_voxels(path)[:, :, 0, 0]
    assert (red[:8] < 10).all()
    assert (red[8:] > 245).all()


def test_sixteen_bits_stay(tmp_path: Path):
    pixels = np.array([[0, 300], [65535, 256]], np.uint16)
    np.testing.assert_array_equal(read_voxels(str(write_picture(tmp_path / "a.png", pixels)))[..., 0], pixels)


def test_alpha_is_dropped_where_it_is_opaque(tmp_path: Path):
    pixels = np.full((4, 5, 4), 255, np.uint8)
    pixels[..., :3] = 7
    path = str(write_picture(tmp_path / "a.png", pixels))
    assert read_header(path).channels == 3
    assert (read_voxels(path) == 7).all()
    pixels[1, 2, 3] = 9
    write_picture(tmp_path / "a.png", pixels)
    with pytest.raises(DataError, match=r"a.png: expected an opaque picture, found an alpha channel down to 9"):
        read_voxels(path)


def test_a_mask_of_0_and_255_is_read_as_0_and_1(tmp_path: Path):
    pixels = np.zeros((4, 5), np.uint8)
    pixels[1:3] = 255
    path = str(write_picture(tmp_path / "a.png", pixels))
    classes, mapped = read_classes(path)
    assert mapped
    np.testing.assert_array_equal(classes[..., 0], pixels // 255)
    np.testing.assert_array_equal(read_voxels(path, is_label=True), classes)
    np.testing.assert_array_equal(read_voxels(path)[..., 0], pixels)
    pixels[0] = 2
    write_picture(tmp_path / "a.png", pixels)
    classes, mapped = read_classes(path)
    assert (classes.max(), mapped) == (255, False)


def test_the_indices_of_a_palette_are_classes_but_no_intensities(tmp_path: Path):
    indices = np.random.default_rng(0).integers(0, 3, (4, 5)).astype(np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    np.testing.assert_array_equal(read_voxels(path, is_label=True)[..., 0], indices)
    with pytest.raises(DataError, match=r"a.png: expected grey or RGB pixels, found a palette of colours"):
        read_voxels(path)


@pytest.mark.parametrize(
    ("name", "channels", "message"),
    [
        ("a.png", 3, r"a.png: expected a mask of class indices .* found a picture in colour"),
        ("a.jpg", 1, r"a.jpg: expected a lossless mask, found JPEG"),
    ],
)
def test_masks_in_colour_or_jpeg_are_refused(tmp_path: Path, name: str, channels: int, message: str):
    pixels = np.zeros((8, 8, 3) if channels == 3 else (8, 8), np.uint8)
    with pytest.raises(DataError, match=message):
        read_voxels(str(write_picture(tmp_path / name, pixels)), is_label=True)


def test_a_picture_of_several_pages_is_refused(tmp_path: Path):
    pages = [Image.fromarray(np.zeros((4, 4), np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"a.tif: expected one picture, found 3 pages"):
        read_header(str(tmp_path / "a.tif"))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy", "a.nrrd", "a.mha", "a.nii.gz"])
def test_a_file_cut_short_is_named(tmp_path: Path, name: str):
    path = tmp_path / name
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    if name in ("a.png", "a.tif", "a.npy"):
        write_picture(path, pixels)
    else:
        write_volume(path, hounsfield((16, 16, 8)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"{name}: truncated or unreadable \(.*\); copy it again"):
        read_voxels(str(path))


def test_what_is_no_volume_is_named(tmp_path: Path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match=r"a.txt: expected NIfTI, NRRD, .* found a file that ends in .txt"):
        read_header(str(tmp_path / "a.txt"))
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"a.npy: truncated or unreadable \(.*[pP]ickle"):
        read_voxels(str(tmp_path / "a.npy"))
    np.save(tmp_path / "b.npy", np.zeros((2, 2), complex))
    with pytest.raises(DataError, match=r"b.npy: expected one array of real numbers, found complex128"):
        read_header(str(tmp_path / "b.npy"))


class _Hostile:
    """Pickle calls what this says when it loads it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("read", [read_header, read_voxels])
@pytest.mark.parametrize("array", [True, False])
def test_a_pickle_named_as_an_array_is_refused_and_not_run(tmp_path: Path, read, array: bool):
    path, hostile = tmp_path / "a.npy", _Hostile(tmp_path / "trace")
    if array:
        np.save(path, np.array([hostile]), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(hostile))
    with pytest.raises(DataError, match=r"a.npy: truncated or unreadable"):
        read(str(path))
    assert not (tmp_path / "trace").exists()


def test_loading_refuses_rather_than_trying_another_reader(tmp_path: Path):
    path = write_picture(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="found a picture in colour"):
        LoadVolumed("x", is_label=True)({"x": str(path)})
    assert isinstance(LoadVolumed("x"), LoadImaged)  # as MONAI Label asks
    with pytest.raises(ValueError, match="expected one path a volume, found 2"):
        VolumeReader().read(["a.png", "b.png"])


@pytest.mark.parametrize("shape", [(6, 9, 1), (6, 9, 4), (6, 1, 1)])
def test_a_prediction_has_the_images_shape_and_affine(tmp_path: Path, shape: tuple[int, int, int]):
    path = write_volume(tmp_path / "a.nii.gz", hounsfield(shape))
    load_image = Compose([LoadVolumed("image"), EnsureChannelFirstd("image")])
    data = load_image({"image": str(path)})
    data["pred"] = data["image"].clone()
    options = {"separate_folder": False, "print_log": False, "resample": False}
    save = SaveImaged(
        "pred", output_dir=tmp_path, output_postfix="pred", writer="vqseg_bundle.data.VolumeWriter", **options
    )
    Compose([Invertd("pred", load_image, orig_keys="image"), save])(data)
    found = nib.load(tmp_path / "a_pred.nii.gz")
    assert found.shape == shape
    np.testing.assert_allclose(found.affine, RAS_AFFINE, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("a.NII.GZ", "nifti"), ("a.nrrd", "itk"), ("a.JPG", "picture"), ("a.npy", "array"), ("a.dcm", "dicom"), ("a", "")],
)
def test_the_name_tells_the_kind(path: str, kind: str):
    assert volume_kind(path) == kind


def test_a_path_may_choose_a_series_and_accept_uneven_slices(tmp_path: Path):
    assert join_volume_path("f", "1.2", True) == "f#1.2&uneven"
    assert join_volume_path("f#1.2", accept_uneven=True) == "f#1.2&uneven"
    parsed = parse_volume_path("f#1.2&uneven")
    assert (parsed.file, parsed.series_uid, parsed.accept_uneven) == (Path("f"), "1.2", True)
    assert parse_volume_path("f#uneven").series_uid == ""
    (tmp_path / "a#1.nii").touch()
    assert parse_volume_path(tmp_path / "a#1.nii").file == tmp_path / "a#1.nii"
    assert source_files("a#1.nii") == ["a#1.nii"]
    with pytest.raises(ValueError, match='uneven_slices must be "refuse" or "accept", got \'no\''):
        accepts_uneven("no")


#: suffix to ways to name the voxels, all of which the libraries understand
_MHD, _NHDR = "ElementDataFile = ", "data file: "
_HEADERS = {
    ".mhd": (
        "NDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\n",
        [_MHD, f"  {_MHD}", "ElementDataFile: ", f"\n{_MHD}"],
    ),
    ".nhdr": (
        "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n",
        [_NHDR, "datafile: ", f"#{'a' * 9999}\n{_NHDR}", "#\n" * 11_000 + _NHDR],
    ),
}


@pytest.mark.parametrize(
    "name", ["../secret.raw", "{root}/secret.raw", "LIST\nslice.raw\n../secret.raw", "%s%ssecret.raw 1 2 1"]
)
@pytest.mark.parametrize("suffix, number", [(suffix, number) for suffix in _HEADERS for number in range(4)])
def test_a_header_that_names_voxels_elsewhere_is_refused(tmp_path: Path, suffix: str, number: int, name: str) -> None:
    """Whoever wrote the header would choose which files of this machine are read."""
    (tmp_path / "cohort").mkdir()
    for secret in (tmp_path / "secret.raw", tmp_path / "cohort" / "slice.raw"):
        secret.write_bytes(bytes(range(64)))
    path, (lines, keys) = tmp_path / "cohort" / f"a{suffix}", _HEADERS[suffix]
    header = f"{lines}{keys[number]}{name.format(root=tmp_path)}\n"
    path.write_text(header)
    for read in (read_header, read_voxels):
        with pytest.raises(DataError, match=rf"a\{suffix}: expected voxels beside the header, .* names .*secret\.raw"):
            read(str(path))
    path.write_text(f"{lines}{keys[number]}slice.raw\n")
    assert read_voxels(str(path)).sum() == sum(range(64))


def test_a_header_without_end_or_of_another_library_is_refused(tmp_path: Path) -> None:
    endless, other = tmp_path / "a.mha", tmp_path / "b.nrrd"
    endless.write_text("ObjectType = Image\n" + "Comment = a\n" * 90_000)
    Image.new("L", (4, 4)).save(other, format="png")  # which ITK would read under any name
    for path, message in ((endless, "expected a header of less than 1 MiB"), (other, "expected an NRRD or MetaImage")):
        with pytest.raises(DataError, match=message):
            read_header(str(path))


def test_a_volume_whose_name_would_command_a_terminal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J.nii.gz"
    nib.save(make_volumes(0)[0], path)
    with pytest.raises(DataError, match=r"a\\x1b\[2J\.nii\.gz': expected a name without control characters; rename"):
        read_header(str(path))
