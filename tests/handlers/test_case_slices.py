"""Which slice of a case a report shows, and how it lies."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from support.report_parts import LABELS, boxes, case, evaluate, volume

from vqseg_bundle.data import choose_slice_axis
from vqseg_bundle.handlers.report.case_slice import cut_slice


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SPR", "ALI"])
def test_a_slice_looks_the_same_however_the_file_is_stored(axcodes: str) -> None:
    # bright right-anterior corner of an axial slice; 6 x 8 x 4 voxels of 1 x 2 x 5 mm
    image = np.zeros((6, 8, 4), np.float32)
    image[4:, 6:, 2] = 1
    label = np.zeros((6, 8, 4), np.float32)
    label[3, 5, 2] = 1
    stored = [
        nib.Nifti1Image(array, np.diag([1.0, 2.0, 5.0, 1.0])).as_reoriented(
            nib.orientations.ornt_transform(
                nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axcodes))
            )
        )
        for array in (image, label)
    ]
    tensors = [MetaTensor(torch.tensor(v.get_fdata())[None], affine=torch.tensor(v.affine)) for v in stored]
    shown = cut_slice(tensors[0], tensors[1], tensors[1], choose_slice_axis)
    assert shown.image.shape == (8, 6)
    assert shown.image[:2, :2].min() == 255
    assert shown.image.sum() == 4 * 255
    assert shown.sides == ("R", "A")
    assert shown.row_to_column == pytest.approx(2.0)
    assert np.argwhere(shown.label).tolist() == [[2, 2]]
    assert shown.slices == 4


def test_the_slice_with_the_largest_label_is_shown_then_the_largest_prediction_then_the_middle() -> None:
    label, pred = torch.zeros(1, 8, 8, 6), torch.zeros(1, 8, 8, 6)
    pred[0, :5, :5, 1] = 1
    label[0, :2, :2, 4] = 1
    label[0, :2, :1, 3] = 1
    assert cut_slice(label, volume(label), pred, choose_slice_axis).number == 5
    assert cut_slice(label, volume(torch.zeros_like(label)), pred, choose_slice_axis).number == 2
    assert cut_slice(label, volume(torch.zeros_like(label)), torch.zeros_like(pred), choose_slice_axis).number == 4
    assert cut_slice(label, volume(label), pred, partial(choose_slice_axis, slice_axis=0)).slices == 8
    assert cut_slice(label, volume(label), pred, partial(choose_slice_axis, slice_axis="coronal")).slices == 8


def test_a_small_structure_is_shown_in_a_part_of_a_large_slice() -> None:
    label = torch.zeros(1, 400, 300, 2)
    label[0, 350:360, 10:20, 1] = 2
    shown = cut_slice(label, volume(label), torch.zeros_like(label), choose_slice_axis)
    assert shown.cut
    assert shown.label.shape == (96, 96)
    assert (shown.label == 2).sum() == 100
    label[0, 50:350, 50:250, 1] = 1
    whole = cut_slice(label, volume(label), label, choose_slice_axis, reconstruction=label)
    assert not whole.cut
    assert whole.label.shape == whole.image.shape == whole.reconstruction.shape == (240, 320)


def test_an_image_without_orientation_lies_as_its_axes_say() -> None:
    label = torch.zeros(1, 5, 7)
    label[0, 3, 1] = 1
    shown = cut_slice(label, MetaTensor(label, affine=torch.eye(4)), label, choose_slice_axis)
    assert np.argwhere(shown.label).tolist() == [[3, 1]]
    picture = MetaTensor(label[..., None], affine=torch.eye(4))
    rows_first = cut_slice(picture, picture, picture, choose_slice_axis).label
    assert np.argwhere(rows_first).tolist() == [[3, 1]], "rows, columns"
    stack = MetaTensor(torch.stack([label, label], dim=-1), affine=torch.eye(4))
    assert np.argwhere(cut_slice(stack, stack, stack, choose_slice_axis).label).tolist() == [[1, 3]], "x, y"
    assert (shown.sides, shown.number, shown.slices) == (("", ""), 1, 1)


def test_the_slice_shown_is_one_that_is_labelled(tmp_path: Path) -> None:
    label = boxes(1, 2)
    label[..., [0, 1, 3, 4, 5]] = len(LABELS)
    assert "slice 3 of 6" in evaluate(tmp_path, [case("sparse", boxes(1, 2), label)])


def test_volumes_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="image, label and pred must lie on one grid"):
        cut_slice(torch.zeros(1, 4, 4, 4), volume(torch.zeros(1, 4, 4, 5)), torch.zeros(1, 4, 4, 5), choose_slice_axis)
