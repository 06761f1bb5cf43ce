"""How the headers of NIfTI files are read: units, the two forms of an affine, pairs and packed files."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd
from support.nifti_parts import OBLIQUE, PLAIN, SHAPE, SHIFTED, image_of, write

from vqseg_bundle.data import DataError, LabelToImaged, LoadVolumed, check_cases, read_header, read_voxels
from vqseg_bundle.data.formats.file_format import corner_distance
from vqseg_bundle.data.formats.nifti import read_nifti, read_nifti_header
from vqseg_bundle.data.formats.volume_path import join_channels


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("unknown", 1.0), ("micron", 1e-3), ("meter", 1e3)], ids=str)
def test_distances_are_in_mm(unit: str, factor: float, tmp_path: Path) -> None:
    header = read_header(str(write(tmp_path / "x.nii", image_of(unit=unit))))
    np.testing.assert_allclose(
        np.linalg.norm(header.affine[:3, :3], axis=0), factor * np.array([0.8, 0.9, 3.0]), rtol=1e-5
    )
    np.testing.assert_allclose(header.affine[:3, 3], factor * OBLIQUE[:3, 3], rtol=1e-5)


def test_a_unit_that_nifti_does_not_know_counts_as_none_and_is_said(tmp_path: Path) -> None:
    image = image_of()
    image.header["xyzt_units"] = 5
    header = read_header(str(write(tmp_path / "x.nii", image)))
    np.testing.assert_allclose(np.linalg.norm(header.affine[:3, :3], axis=0), [0.8, 0.9, 3.0], rtol=1e-5)
    assert header.notes == ("has an unknown unit of length, code 5; mm are assumed",)


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
    image = image_of(qform=0)
    image.header["pixdim"][1:4] = 0.8, 0.95, 3.0
    (note,) = read_header(str(write(tmp_path / "x.nii", image))).notes
    pixdim, sform = "0.8 x 0.95 x 3 mm by its pixdim, which ITK takes", "0.8 x 0.9 x 3 mm by its sform, which is used"
    assert note == f"has voxels of {pixdim}, and of {sform}"
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


def test_a_label_that_has_one_of_two_mirrored_affines_is_not_mirrored(tmp_path: Path) -> None:
    """About a centred origin, sform and qform that mirror each other cover the same voxels."""
    centred = np.diag([0.8, 0.9, 3.0, 1.0])
    centred[:3, 3] = -centred[:3, :3] @ (np.array(SHAPE) - 1) / 2
    mirrored = np.diag([-1.0, 1.0, 1.0, 1.0]) @ centred
    source = write(tmp_path / "x.nii", image_of(affine=centred, qform_affine=mirrored))
    voxels = np.asarray(nib.load(source).dataobj)
    load = [LoadVolumed("image"), LoadVolumed("label", is_label=True), EnsureChannelFirstd(["image", "label"])]
    for affine in (centred, mirrored):
        label = write(tmp_path / "y.nii", nib.Nifti1Image(voxels, affine))
        loaded = Compose([*load, LabelToImaged("label")])({"image": str(source), "label": str(label)})
        assert torch.equal(loaded["label"].as_tensor(), loaded["image"].as_tensor())


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


LARGE = (512, 512, 3)
LPS = np.diag([-0.5, -0.5, 1.0, 1.0])
FIRST_AXIS_REVERSED = np.diag([-1.0, 1.0, 1.0, 1.0])


def tilted(angle: float) -> np.ndarray:
    """LPS, turned about the first voxel by an angle in radians, within the slices."""
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return LPS @ turn


def errors_of_label(folder: Path, affine: np.ndarray, label_affine: np.ndarray) -> str:
    image = write(folder / "x.nii", image_of(LARGE, affine))
    label = write(folder / "y.nii", image_of(LARGE, label_affine))
    with pytest.raises(DataError, match=r"^The data have 1 problem:") as refused:
        check_cases([{"image": str(image), "label": str(label)}], {0: "a", 1: "b"}, 1, "headers", use_cache=False)
    return str(refused.value)


@pytest.mark.parametrize("degrees", [0.1, 0.15, 3.0])
def test_the_rounding_of_a_lone_qform_makes_no_other_grid(degrees: float, tmp_path: Path) -> None:
    """Of the three tilts, the first moves the far corner most, by 0.039 voxels."""
    affine = tilted(math.radians(degrees))
    image = str(write(tmp_path / "x.nii", image_of(LARGE, affine, qform=0)))
    other = str(write(tmp_path / "y.nii", image_of(LARGE, affine, sform=0)))
    apart = corner_distance(read_header(image).affine, read_header(other).affine, LARGE)
    assert 0 < apart <= 0.04 * 0.5
    assert read_header(join_channels([image, other])).channels == 2
    found = check_cases([{"image": image, "label": other}], {0: "a", 1: "b"}, 1, "headers", use_cache=False)
    assert found.errors == []


def test_a_slight_tilt_is_told_by_how_far_the_corners_lie_apart(tmp_path: Path) -> None:
    """2e-4 about the first voxel move the far corner by 511 x sqrt(2) x 0.5 mm x 2e-4 = 0.07227 mm."""
    found = errors_of_label(tmp_path, LPS, tilted(2e-4))
    assert "y.nii: affine differs from its image's by up to 0.07227 mm at the corners" in found
    with pytest.raises(DataError, match=r"y\.nii: expected one channel on .*, found corners up to 0\.07227 mm off"):
        read_header(join_channels([str(tmp_path / "x.nii"), str(tmp_path / "y.nii")]))


def test_a_tilt_is_not_hidden_by_a_flip_that_loading_undoes(tmp_path: Path) -> None:
    from_the_end = FIRST_AXIS_REVERSED.copy()
    from_the_end[0, 3] = LARGE[0] - 1
    found = errors_of_label(tmp_path, LPS, tilted(2e-4) @ from_the_end)
    assert "y.nii: affine differs from its image's by up to 0.07227 mm at the corners" in found


@pytest.mark.parametrize(
    ("label_affine", "axes"),
    [(OBLIQUE @ FIRST_AXIS_REVERSED, "axis 0"), (np.diag([-1.0, -1.0, 1.0, 1.0]) @ OBLIQUE, "axis 0 and axis 1")],
    ids=["about the first voxel", "LPS for RAS"],
)
def test_a_flip_alone_is_told_as_such(tmp_path: Path, label_affine: np.ndarray, axes: str) -> None:
    found = errors_of_label(tmp_path, OBLIQUE, label_affine)
    assert f"y.nii: affine runs the other way along {axes} than its image's" in found
