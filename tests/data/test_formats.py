"""Every format ends in the same axes and affine; pictures and arrays are volumes of one slice; bad files are named."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, SaveImaged
from support.data_parts import RAS_AFFINE, hounsfield, load_channels_first, write_picture, write_volume

from vqseg_bundle.data import (
    DataError,
    LoadVolumed,
    VolumeReader,
    has_geometry,
    read_header,
    read_voxels,
    source_files,
)
from vqseg_bundle.data.formats.table import volume_kind
from vqseg_bundle.data.formats.volume_path import accepts_uneven, join_volume_path, parse_volume_path

SHAPE = (7, 6, 5)
VOLUMES = ["a.nii.gz", "a.nii", "a.nrrd", "a.nhdr", "a.mha", "a.mhd", "series"]


@pytest.mark.parametrize("name", VOLUMES)
def test_one_image_is_the_same_in_every_volume_format(tmp_path: Path, name: str):
    voxels = hounsfield(SHAPE)
    path = write_volume(tmp_path / name, voxels)
    header = read_header(str(path))
    assert header.shape == SHAPE
    np.testing.assert_allclose(header.affine, RAS_AFFINE, atol=1e-5)
    np.testing.assert_array_equal(read_voxels(str(path)), voxels)
    loaded = load_channels_first(path)
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
    np.testing.assert_array_equal(load_channels_first(tmp_path / name).numpy(), np.moveaxis(voxels, -1, 0))


@pytest.mark.parametrize("spacing", ["", "spacings: 2 2 3\n"])
def test_a_header_without_a_voxel_size_says_so(tmp_path: Path, spacing: str):
    header = f"NRRD0004\ntype: short\ndimension: 3\nsizes: 7 6 5\n{spacing}endian: little\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + hounsfield(SHAPE).T.astype("<i2").tobytes())
    write_volume(tmp_path / "a.mha", hounsfield(SHAPE))
    content = (tmp_path / "a.mha").read_bytes()
    assert content.count(b"ElementSpacing = ") == 1
    if not spacing:
        (tmp_path / "a.mha").write_bytes(content.replace(b"ElementSpacing = ", b"Comment = "))
    for name in ("a.nrrd", "a.mha"):
        notes = read_header(str(tmp_path / name)).notes
        assert [note for note in notes if "names no voxel size" in note] == (list(notes) if not spacing else [])
        assert len(notes) == (not spacing or name == "a.nrrd"), "the NRRD names no anatomical space, either"
    assert has_geometry(read_header(str(tmp_path / "a.nrrd"))) == bool(spacing)


def test_a_flat_nifti_is_a_volume_of_one_slice(tmp_path: Path):
    pixels = hounsfield((9, 7))
    path = str(tmp_path / "flat.nii.gz")
    nib.save(nib.Nifti1Image(pixels, np.diag([0.5, 0.5, 2.0, 1.0])), path)
    assert read_header(path).shape == (9, 7, 1)
    np.testing.assert_array_equal(read_voxels(path)[..., 0], pixels)
    loaded = LoadVolumed("image")({"image": path})["image"]
    assert loaded.shape == (9, 7, 1)
    np.testing.assert_allclose(loaded.affine, np.diag([0.5, 0.5, 2.0, 1.0]))


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
