"""A prediction lies where its source lies, in nibabel and in ITK, whatever the source's header says."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, Orientationd, SaveImaged, Spacingd
from support.nifti_parts import OBLIQUE, PLAIN, SHAPE, SHIFTED, image_of, write

from vqseg_bundle.data import DataError, LoadVolumed, NameByCased, class_map_dtype
from vqseg_bundle.data.formats.file_format import corner_distance
from vqseg_bundle.data.geometry.orientation import axis_change
from vqseg_bundle.data.output.volume_writer import VolumeWriter


def predicted(source: Path, folder: Path, spacing: float | None = None) -> Path:
    """What the bundle saves for a source: loaded, reoriented, resampled if asked, brought back, saved."""
    steps: list[Any] = [LoadVolumed("image"), EnsureChannelFirstd("image"), Orientationd("image", "RAS", labels=None)]
    steps += [Spacingd("image", (spacing, spacing, -1.0))] if spacing else []
    preprocessing = Compose(steps)
    data = preprocessing({"image": str(source), "case": "a b"})
    data["pred"] = data["image"].clone()
    save = [
        Invertd("pred", preprocessing, "image", nearest_interp=spacing is not None, to_tensor=True),
        NameByCased("pred"),
        SaveImaged(
            "pred",
            output_dir=folder,
            output_postfix="pred",
            separate_folder=False,
            output_dtype=np.int16,
            writer=VolumeWriter,
            resample=False,
            print_log=False,
        ),
    ]
    Compose(save)(data)
    return folder / "a b_pred.nii.gz"


def itk_geometry(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = itk.imread(str(path))
    return np.array(image.GetOrigin()), itk.array_from_matrix(image.GetDirection()) @ np.diag(image.GetSpacing())


NIFTI: dict[str, Callable[[], Any]] = {
    "oblique": image_of,
    "sform alone": lambda: image_of(qform=0),
    "qform alone": lambda: image_of(sform=0),
    "codes 4 and 3": lambda: image_of(sform=4, qform=3),
    "forms that differ": lambda: image_of(affine=SHIFTED, qform_affine=PLAIN),
    "flipped qform beside a standard space": lambda: image_of(
        affine=PLAIN, sform=4, qform_affine=np.diag([-0.8, 0.9, 3.0, 1.0])
    ),
    "no codes": lambda: image_of(affine=PLAIN, sform=0, qform=0),
    "micron": lambda: image_of(unit="micron"),
    "metre": lambda: image_of(affine=PLAIN * [1e-3, 1e-3, 1e-3, 1.0], unit="meter"),
    "NIfTI-2": lambda: image_of(kind=nib.Nifti2Image, unit="mm"),
    "big endian": lambda: image_of(header=nib.Nifti1Header(endianness=">")),
    "flipped and permuted": lambda: image_of(affine=OBLIQUE[:, [2, 0, 1, 3]] * [1, -1, 1, 1]),
    "one slice": lambda: image_of((7, 6, 1)),
    "one slice, first": lambda: image_of((1, 6, 5)),
    "two axes": lambda: image_of((7, 6)),
    "a channel axis of one": lambda: image_of((7, 6, 5, 1)),
    "five axes": lambda: image_of((7, 6, 5, 1, 1)),
    "sheared": lambda: image_of(affine=PLAIN + np.eye(4, k=1) * [0, 0, 0.3, 0], qform=0),
}


#: ITK cannot read these, or reads their axes otherwise
NOT_ITKS = ("NIfTI-2", "sheared", "a channel axis of one", "five axes", "two axes")


@pytest.mark.parametrize("name", NIFTI)
def test_a_prediction_has_its_nifti_sources_geometry(name: str, tmp_path: Path) -> None:
    made = NIFTI[name]()
    source = write(tmp_path / "x.nii.gz", made)
    found, given = nib.load(predicted(source, tmp_path)), nib.load(source)
    assert type(found) is type(given)
    for key in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "srow_x", "srow_z"):
        np.testing.assert_array_equal(found.header[key], given.header[key])
    np.testing.assert_array_equal(found.header["pixdim"][:4], given.header["pixdim"][:4])
    np.testing.assert_array_equal(found.affine, given.affine)
    assert found.header.get_xyzt_units()[0] == given.header.get_xyzt_units()[0]
    assert found.ndim == min(given.ndim, 3)
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(given.dataobj).reshape(found.shape))
    if name not in NOT_ITKS:
        for ours, theirs in zip(itk_geometry(tmp_path / "a b_pred.nii.gz"), itk_geometry(source), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
@pytest.mark.parametrize("affine", [PLAIN, OBLIQUE, OBLIQUE[:, [2, 0, 1, 3]] * [1, -1, 1, 1]])
def test_a_prediction_overlays_an_itk_file(ending: str, affine: np.ndarray, tmp_path: Path) -> None:
    voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    image = itk.image_from_array(np.ascontiguousarray(voxels.T))
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(sides.tolist())
    image.SetDirection(itk.matrix_from_array(lps[:, :3] / sides))
    image.SetOrigin(lps[:, 3].tolist())
    source = tmp_path / f"x.{ending}"
    itk.imwrite(image, str(source))
    path = predicted(source, tmp_path)
    for ours, theirs in zip(itk_geometry(path), itk_geometry(source), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)  # NIfTI-1 holds float32
    found = nib.load(path)
    np.testing.assert_allclose(found.affine, affine, atol=1e-5)
    np.testing.assert_allclose(found.header.get_qform(), affine, atol=1e-5)
    assert (int(found.header["qform_code"]), int(found.header["sform_code"])) == (1, 1)
    assert found.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(np.asarray(found.dataobj), voxels)


def test_a_sheared_affine_has_no_qform(tmp_path: Path) -> None:
    writer = VolumeWriter(output_dtype=np.uint8)
    sheared = PLAIN.copy()
    sheared[1, 2] = 0.3
    writer.set_data_array(torch.zeros(1, 3, 3, 3))
    writer.set_metadata({"affine": torch.as_tensor(sheared), "original_affine": sheared}, resample=False)
    writer.write(tmp_path / "a.nii.gz")
    found = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(found.affine, sheared, atol=1e-6)
    assert int(found.header["qform_code"]) == 0


def test_resampling_comes_back_to_the_sources_grid(tmp_path: Path) -> None:
    source = write(tmp_path / "x.nii.gz", image_of(unit="micron"))
    found = nib.load(predicted(source, tmp_path, spacing=0.0005))
    np.testing.assert_array_equal(found.affine, nib.load(source).affine)
    assert found.shape == SHAPE


def test_a_prediction_on_another_grid_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "x.nii.gz", image_of())
    writer = VolumeWriter()
    for affine, shape, message in (
        (PLAIN, SHAPE, "expected a prediction on the image's own grid, found corners .* mm away; invert it"),
        (OBLIQUE, (7, 6, 9), r"expected a prediction of \(7, 6, 5\) voxels, found \(7, 6, 9\); invert it"),
    ):
        writer.set_data_array(MetaTensor(torch.zeros(1, *shape)))
        writer.set_metadata({"affine": affine, "filename_or_obj": str(source)}, resample=False)
        with pytest.raises(DataError, match=message):
            writer.write(tmp_path / "a.nii.gz")
        assert not (tmp_path / "a.nii.gz").exists()


@pytest.mark.parametrize(
    ("largest", "expected"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65_536, np.uint32), (-1, np.int16)]
)
def test_class_maps_are_saved_in_a_type_that_holds_them(largest: int, expected: type) -> None:
    assert class_map_dtype([0, str(largest)]) == expected


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_no_text_of_the_source_leaves_with_a_prediction(tmp_path: Path, kind: Any) -> None:
    source = image_of(kind=kind)
    texts = [name for name in ("descrip", "aux_file", "db_name", "data_type") if name in set(source.header)]
    for name in texts:
        source.header[name] = b"Doe^John"
    saved = predicted(write(tmp_path / "a.nii", source), tmp_path)
    assert b"Doe^John" in (tmp_path / "a.nii").read_bytes()
    assert b"Doe" not in gzip.decompress(saved.read_bytes())


@pytest.mark.parametrize("shape", [(7, 6, 5), (7, 6)])
def test_several_channels_lie_on_the_source_along_the_fourth_axis(tmp_path: Path, shape: tuple[int, ...]) -> None:
    source = write(tmp_path / "a.nii.gz", image_of(shape))
    loaded = EnsureChannelFirstd("image")(LoadVolumed("image")({"image": str(source)}))["image"]
    writer = VolumeWriter()
    writer.set_data_array(torch.cat([loaded, loaded + 1000.5]))
    writer.set_metadata(loaded.meta, resample=False)
    writer.write(tmp_path / "b.nii.gz")
    written = nib.load(tmp_path / "b.nii.gz")
    assert written.shape == (*(*shape, 1)[:3], 2)
    np.testing.assert_array_equal(written.get_sform(), nib.load(source).get_sform())
    first, second = np.moveaxis(np.asarray(written.dataobj), -1, 0)
    np.testing.assert_array_equal(first, np.asarray(nib.load(source).dataobj).reshape(first.shape))
    np.testing.assert_array_equal(second, first + 1000.5)


def test_a_label_that_is_slightly_tilted_lies_on_another_grid() -> None:
    """A tilt of 0.0009 about the first voxel moves the far corner of 512 x 512 voxels by 0.65 of one."""
    plain, shape = np.eye(4), (512, 512, 3)
    tilted = plain.copy()
    tilted[:2, :2] = [[math.cos(9e-4), -math.sin(9e-4)], [math.sin(9e-4), math.cos(9e-4)]]
    assert axis_change(tilted, shape, plain, shape) is None
    np.testing.assert_array_equal(axis_change(plain, shape, plain, shape), [[0, 1], [1, 1], [2, 1]])
    assert corner_distance(tilted, plain, shape) == pytest.approx(511 * math.sqrt(2) * 9e-4, rel=1e-5)
