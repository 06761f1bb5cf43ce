"""One slice axis a cohort."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Invertd
from support.data_parts import hounsfield, write_volume

from vqseg_bundle.data import SliceAxisLastd, choose_slice_axis, cohort_slice_axis, name_slice_axis

SHAPE = (4, 5, 6)


def _oblique_affine(spacing: tuple[float, float, float]) -> torch.Tensor:
    """Rotated, left-handed and far from the origin."""
    cos, sin = np.cos(0.3), np.sin(0.3)
    rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, -1.0]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing)
    affine[:3, 3] = (-90.0, 35.5, 12.25)
    return torch.from_numpy(affine)


def _volume(spacing: tuple[float, float, float] = (1.0, 1.0, 8.0), channels: int = 2) -> MetaTensor:
    values = torch.arange(channels * np.prod(SHAPE), dtype=torch.float32).view(channels, *SHAPE)
    return MetaTensor(values, affine=_oblique_affine(spacing))


def _moved_index(index: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*(index[other] for other in range(3) if other != axis), index[axis])


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [
        ((1.0, 1.0, 8.0), 2),
        ((1.0, 8.0, 1.0), 1),
        ((8.0, 1.0, 1.0), 0),
        ((1.5, 1.4, 1.3), 0),
        ((1.0, 1.0, 1.0), 2),  # of equal spacings the last
        ((5.0, 5.0, 1.0), 1),
        ((5.0, 1.0, 5.0), 2),
        ((1.0, 1.0000002, 1.0), 2),  # a header's rounding does not choose
        ((3.0, 3.2, 3.0), 1),
    ],
)
def test_auto_takes_the_coarsest_spacing(spacing, axis):
    affine = _oblique_affine(spacing).numpy()
    assert choose_slice_axis(SHAPE, affine) == axis
    assert choose_slice_axis(SHAPE, affine, "auto") == axis


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_asked_for_is_taken_whatever_the_spacing(axis):
    assert choose_slice_axis(SHAPE, np.diag([9.0, 1.0, 1.0, 1.0]), axis) == axis


@pytest.mark.parametrize(
    ("codes", "axes"), [("RAS", (0, 1, 2)), ("LPI", (0, 1, 2)), ("SRA", (1, 2, 0)), ("PIR", (2, 0, 1))]
)
def test_a_name_finds_the_axis_of_that_direction_however_a_volume_is_stored(codes, axes):
    # sagittal slices lie across left-right, coronal across back-front, axial across feet-head
    turned = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), np.diag([9.0, 1.0, 2.0, 1.0])).as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
        )
    )
    named = [choose_slice_axis(turned.shape, turned.affine, name) for name in ("sagittal", "coronal", "axial")]
    assert tuple(named) == axes
    assert [turned.shape[axis] for axis in named] == list(SHAPE)


def test_the_name_of_an_axis_is_that_of_its_direction():
    assert [name_slice_axis(axis, "RAS") for axis in range(3)] == ["sagittal", "coronal", "axial"]
    assert [name_slice_axis(axis, "SLP") for axis in range(3)] == ["axial", "sagittal", "coronal"]
    assert [name_slice_axis(axis, None) for axis in range(3)] == [0, 1, 2]
    assert [name_slice_axis(name, "SLP") for name in ("auto", "axial")] == ["auto", "axial"]


@pytest.mark.parametrize("slice_axis", ["auto", "sagittal", "coronal", "axial", 0, 1, 2])
@pytest.mark.parametrize("single", [0, 1, 2])
def test_a_single_slice_is_cut_as_it_is_whatever_was_asked_for(slice_axis, single):
    shape = tuple(1 if axis == single else size for axis, size in enumerate(SHAPE))
    assert choose_slice_axis(shape, _oblique_affine((1.0, 2.0, 3.0)).numpy(), slice_axis) == single


def test_a_line_of_voxels_is_no_single_slice():
    assert choose_slice_axis((1, 1, 6), np.eye(4), 2) == 2


@pytest.mark.parametrize("slice_axis", [3, -1, "z", "0", "Axial", None, True, 1.5])
def test_any_other_axis_is_refused(slice_axis):
    message = rf'slice_axis must be "auto", "sagittal", "coronal", "axial", 0, 1 or 2, got {slice_axis!r}'
    with pytest.raises(ValueError, match=message):
        choose_slice_axis(SHAPE, np.eye(4), slice_axis)
    with pytest.raises(ValueError, match=message):
        name_slice_axis(slice_axis, "RAS")
    with pytest.raises(ValueError, match=message):
        SliceAxisLastd("image", slice_axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_values_move_and_their_world_points_stay(axis):
    volume = _volume()
    moved = SliceAxisLastd("image", axis)({"image": volume})["image"]
    assert moved.shape[1:] == _moved_index(SHAPE, axis)
    for index in itertools.product(*(range(length) for length in SHAPE)):
        there = _moved_index(index, axis)
        assert torch.equal(moved[(slice(None), *there)], volume[(slice(None), *index)])
        before = volume.affine @ torch.tensor([*index, 1.0], dtype=torch.float64)
        after = moved.affine @ torch.tensor([*there, 1.0], dtype=torch.float64)
        torch.testing.assert_close(after, before, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("spacing", "last"), [((1.0, 1.25, 8.0), (1.0, 1.25, 8.0)), ((7.0, 1.0, 1.5), (1.0, 1.5, 7.0))]
)
def test_auto_puts_the_coarsest_spacing_last(spacing, last):
    moved = SliceAxisLastd("image")({"image": _volume(spacing)})["image"]
    assert moved.pixdim.tolist() == pytest.approx(last)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_round_trip(axis):
    volume = _volume()
    transform = SliceAxisLastd(["image", "label"], axis)
    back = transform.inverse(transform({"image": volume, "label": _volume(channels=1)}))
    assert back["image"].shape == volume.shape
    assert torch.equal(back["image"].as_tensor(), volume.as_tensor())
    torch.testing.assert_close(back["image"].affine, volume.affine, rtol=0, atol=1e-12)
    assert back["image"].applied_operations == []
    assert back["label"].shape == (1, *SHAPE)


def test_the_input_is_left_as_it_is():
    volume = _volume()
    affine = volume.affine.clone()
    data = {"image": volume, "name": "case"}
    output = SliceAxisLastd("image", 0)(data)
    assert output["name"] == "case"
    assert data["image"] is volume
    assert volume.shape == (2, *SHAPE)
    assert volume.applied_operations == []
    assert torch.equal(volume.affine, affine)


def test_image_and_label_move_alike_and_a_missing_label_is_allowed():
    transform = SliceAxisLastd(["image", "label"], allow_missing_keys=True)
    both = transform({"image": _volume((9.0, 1.0, 1.0)), "label": _volume((9.0, 1.0, 1.0), channels=1)})
    assert both["image"].shape[1:] == both["label"].shape[1:] == (5, 6, 4)
    assert set(transform({"image": _volume()})) == {"image"}
    with pytest.raises(KeyError, match="label"):
        SliceAxisLastd(["image", "label"])({"image": _volume()})


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_invertd_brings_a_prediction_back_to_the_images_grid(axis):
    """The prediction is made on the transformed grid, has channels of its own, and follows the image's trace."""
    volume = _volume()
    preprocessing = Compose([SliceAxisLastd("image", axis), Flipd("image", spatial_axis=0)])
    data = preprocessing({"image": volume})
    data["pred"] = MetaTensor(data["image"].as_tensor()[:1] * 2.0)
    inverted = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)(data)["pred"]
    assert torch.equal(inverted.as_tensor(), volume.as_tensor()[:1] * 2.0)
    torch.testing.assert_close(inverted.affine, volume.affine, rtol=0, atol=1e-9)


def volumes(folder: Path, *spacings: tuple[float, float, float], shape: tuple[int, ...] = (4, 5, 6)) -> list[str]:
    return [
        str(write_volume(folder / f"{index}.nii.gz", hounsfield(shape), np.diag([*spacing, 1.0])))
        for index, spacing in enumerate(spacings)
    ]


def test_the_axis_that_is_coarsest_in_most_volumes_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    images = volumes(tmp_path, (1.0, 1.2, 1.0), (1.0, 1.2, 1.0), (1.0, 1.0, 1.3))
    with caplog.at_level(logging.INFO):
        assert cohort_slice_axis(images) == 1
    assert "slice axis 1: coarsest in 2 of 3 volumes" in caplog.text
    assert "tie" not in caplog.text


def test_a_tie_goes_to_the_last_axis_and_is_stated(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        assert cohort_slice_axis(volumes(tmp_path, (3.0, 1.0, 1.0), (1.0, 1.0, 3.0))) == 2
    assert "coarsest in 1 of 2 volumes (a tie: the last of them" in caplog.text
    assert f"clearly coarser along another: {tmp_path / '0.nii.gz'};" in caplog.text


def test_a_single_slice_decides_whatever_the_spacing(tmp_path: Path):
    assert cohort_slice_axis(volumes(tmp_path, (1.0, 1.0, 0.5), shape=(4, 5, 1))) == 2


def test_an_axis_asked_for_and_unreadable_files(tmp_path: Path):
    assert cohort_slice_axis([str(tmp_path / "gone.nii")], 0) == 0
    assert cohort_slice_axis([str(tmp_path / "gone.nii")]) == 2


@pytest.mark.parametrize("codes", ["RAS", "LSP", "IRA"])
def test_with_an_orientation_axes_are_those_of_the_body(codes: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    image = nib.Nifti1Image(hounsfield((4, 5, 6)), np.diag([1.0, 3.0, 1.0, 1.0]))
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    nib.save(image.as_reoriented(change), tmp_path / "x.nii.gz")
    with caplog.at_level(logging.INFO):
        assert cohort_slice_axis([str(tmp_path / "x.nii.gz")], "auto", "RAS") == "coronal"
    assert "slice axis coronal: coarsest in 1 of 1 volumes" in caplog.text
    assert cohort_slice_axis([str(tmp_path / "x.nii.gz")]) == codes.replace("P", "A").index("A")


def test_an_axis_asked_for_is_named_where_the_orientation_is_known(tmp_path: Path):
    gone = [str(tmp_path / "gone.nii")]
    assert cohort_slice_axis(gone, 0, "RAS") == cohort_slice_axis(gone, "sagittal", "RAS") == "sagittal"
    assert cohort_slice_axis(gone, "auto", "RAS") == "axial"
