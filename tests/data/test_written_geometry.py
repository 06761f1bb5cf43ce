"""A prediction lies where its source lies, in nibabel and in ITK, whatever the source's header says."""

from __future__ import annotations

import gzip
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
from nibabel.eulerangles import euler2mat

from vqseg_bundle.data import (
    DataError,
    LabelToImaged,
    LoadVolumed,
    NameByCased,
    check_cases,
    class_map_dtype,
    read_header,
    read_voxels,
)
from vqseg_bundle.data.formats.nifti import read_nifti, read_nifti_header
from vqseg_bundle.data.output.volume_writer import VolumeWriter

SHAPE = (7, 6, 5)


PLAIN = np.diag([0.8, 0.9, 3.0, 1.0])


OBLIQUE = np.eye(4)


OBLIQUE[:3, :3] = euler2mat(0.2, 0.3, -0.25) @ PLAIN[:3, :3]


OBLIQUE[:3, 3] = [12.3, -45.6, 78.9]


SHIFTED = PLAIN.copy()


SHIFTED[:3, 3] = [10.0, -5.0, 3.0]


def image_of(
    shape: tuple[int, ...] = SHAPE,
    affine: np.ndarray = OBLIQUE,
    sform: int = 2,
    qform: int = 1,
    qform_affine: np.ndarray | None = None,
    kind: Any = nib.Nifti1Image,
    unit: str = "unknown",
    header: Any = None,
) -> Any:
    """Voxels that count up; a distinct value tells each from the others."""
    image = kind(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine, header)
    image.set_sform(affine, sform)
    image.set_qform(affine if qform_affine is None else qform_affine, qform)
    image.header.set_xyzt_units(unit)
    return image


def write(path: Path, image: Any) -> Path:
    """Save under any name: nibabel refuses some."""
    plain = path.with_name("plain.nii")
    nib.save(image, plain)
    content = plain.read_bytes()
    plain.unlink()
    path.write_bytes(gzip.compress(content) if path.name.lower().endswith(".gz") else content)
    return path


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
    if name not in (
        "NIfTI-2",
        "sheared",
        "a channel axis of one",
        "five axes",
        "two axes",
    ):  # ITK reads these otherwise
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


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("unknown", 1.0), ("micron", 1e-3), ("meter", 1e3)], ids=str)
def test_distances_are_in_mm(unit: str, factor: float, tmp_path: Path) -> None:
    header = read_header(str(write(tmp_path / "x.nii", image_of(unit=unit))))
    np.testing.assert_allclose(
        np.linalg.norm(header.affine[:3, :3], axis=0), factor * np.array([0.8, 0.9, 3.0]), rtol=1e-5
    )
    np.testing.assert_allclose(header.affine[:3, 3], factor * OBLIQUE[:3, 3], rtol=1e-5)


def test_which_form_is_used_is_said_where_it_matters(tmp_path: Path) -> None:
    def notes(**changes: Any) -> tuple[str, ...]:
        return read_header(str(write(tmp_path / "x.nii", image_of(**changes)))).notes

    assert notes() == notes(sform=0) == notes(qform=0) == ()
    slight = OBLIQUE.copy()
    slight[:3, 3] += 0.04  # along each axis 0.07 mm in all: less than a tenth of 0.8
    assert notes(qform_affine=slight) == ()
    slight[:3, 3] += 0.02
    (note,) = notes(qform_affine=slight)
    assert note == "has a qform that lies up to 0.1039 mm from its sform; the sform is used"
    (note,) = notes(sform=0, qform=0)
    assert note.startswith("has no geometry (codes of qform and sform are 0)")


@pytest.mark.parametrize(
    ("name", "packed"), [("x.NII.GZ", True), ("x.Nii", False), ("x.nii", True), ("x.nii.gz", False)]
)
def test_content_and_not_name_says_what_a_file_is(name: str, packed: bool, tmp_path: Path) -> None:
    nib.save(image_of(), tmp_path / "plain.nii")
    content = (tmp_path / "plain.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    path = str(tmp_path / name)
    assert read_header(path).shape == SHAPE
    np.testing.assert_array_equal(read_voxels(path), np.arange(np.prod(SHAPE)).reshape(SHAPE))


@pytest.mark.parametrize(
    ("largest", "expected"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65_536, np.uint32), (-1, np.int16)]
)
def test_class_maps_are_saved_in_a_type_that_holds_them(largest: int, expected: type) -> None:
    assert class_map_dtype([0, str(largest)]) == expected


def test_a_pair_is_one_volume_and_analyze_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), OBLIQUE), tmp_path / "x.hdr")
    for name in ("x.hdr", "x.img"):
        np.testing.assert_allclose(read_nifti_header(str(tmp_path / name)).affine, OBLIQUE, rtol=1e-5)
        assert read_nifti(str(tmp_path / name)).flat[-1] == np.prod(SHAPE) - 1
    (tmp_path / "x.img").unlink()
    with pytest.raises(DataError, match=r"x\.hdr: expected its voxels in x\.img beside it, found none; copy both"):
        read_nifti_header(str(tmp_path / "x.hdr"))
    nib.save(nib.AnalyzeImage(np.zeros(SHAPE, np.int16), np.eye(4)), tmp_path / "y.hdr")
    with pytest.raises(DataError, match="expected a NIfTI file, found an Analyze file, which does not say where left"):
        read_nifti_header(str(tmp_path / "y.img"))


@pytest.mark.parametrize("flipped", [False, True])
def test_a_label_may_have_the_affine_that_its_image_is_not_read_by(flipped: bool, tmp_path: Path) -> None:
    """ITK-SNAP draws on the qform; its label, flipped or not, lies on the image's voxels all the same."""
    source = write(tmp_path / "x.nii", image_of(affine=SHIFTED, qform_affine=PLAIN))
    voxels = np.asarray(nib.load(source).dataobj)
    change = np.diag([-1.0, 1.0, 1.0, 1.0])
    change[0, 3] = SHAPE[0] - 1
    label = nib.Nifti1Image(voxels[::-1] if flipped else voxels, PLAIN @ change if flipped else PLAIN)
    case = {"image": str(source), "label": str(write(tmp_path / "y.nii", label)), "case": "x", "patient": "x"}
    found = check_cases([case], {index: str(index) for index in range(210)}, 1, use_cache=False)
    assert found.errors == []
    assert "x.nii has a qform that lies up to 11.58 mm from its sform; the sform is used" in "".join(found.warnings)
    load = [LoadVolumed("image"), LoadVolumed("label", is_label=True), EnsureChannelFirstd(["image", "label"])]
    loaded = Compose([*load, LabelToImaged("label")])(case)
    assert torch.equal(loaded["label"].as_tensor(), loaded["image"].as_tensor())
    assert torch.equal(loaded["label"].affine, loaded["image"].affine)


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
