"""Slices in the figures: upright and without padding, whatever the file's axes; the overview's fullest slice."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialPad
from support.bundle_runs import CohortFolder

from scripts.figures.__main__ import main
from scripts.figures.overview import _draw, _slice
from scripts.figures.trained_network import view_slices
from vqseg_bundle.data import SliceAxisLastd, open_cohort, read_classes

IDENTITY = np.eye(4)


def preprocessed(voxels: np.ndarray, affine: np.ndarray, size: int = 12) -> MetaTensor:
    """As the network gets it: slices last, padded to the patch."""
    image = MetaTensor(torch.tensor(voxels.copy())[None], affine=torch.tensor(affine))
    image.meta["original_affine"] = affine
    return SpatialPad((size, size, 1), mode="minimum")(SliceAxisLastd("image")({"image": image})["image"])


def shown(volume: MetaTensor, number: int = 0) -> np.ndarray:
    return view_slices(volume).show(volume[0, ..., number].numpy())


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "LAS", "ASR", "SPL"])
def test_an_oriented_slice_is_shown_alike_however_it_is_stored(axcodes: str) -> None:
    voxels = np.arange(6 * 8 * 4, dtype=np.float32).reshape(6, 8, 4)
    stored = nib.Nifti1Image(voxels, np.diag([1.0, 2.0, 5.0, 1.0])).as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axcodes))
        )
    )
    volume = preprocessed(stored.get_fdata(dtype=np.float32), stored.affine)
    view = view_slices(volume)
    # the patient's right at the left, anterior at the top: both array axes of RAS turned round
    slices = [shown(volume, number) for number in range(4)]
    assert any(np.array_equal(found, voxels[::-1, ::-1, 1].T) for found in slices)
    assert (view.upright.sides, view.aspect) == (("R", "A"), 2.0)


def test_a_file_without_orientation_lies_as_its_axes_say() -> None:
    picture = np.arange(35, dtype=np.float32).reshape(5, 7, 1)
    np.testing.assert_array_equal(shown(preprocessed(picture, IDENTITY)), picture[..., 0], "rows, columns")
    volume = np.arange(70, dtype=np.float32).reshape(5, 7, 2)
    np.testing.assert_array_equal(shown(preprocessed(volume, IDENTITY), 1), volume[..., 1].T, "x, y")


def test_a_part_of_a_slice_has_the_padding_that_is_left() -> None:
    volume = preprocessed(np.ones((6, 10, 2), np.float32), IDENTITY)
    assert view_slices(volume).inside == (slice(3, 9), slice(1, 11))
    part = view_slices(volume).within([2, 4], [6, 8])
    assert part.inside == (slice(1, 6), slice(0, 7))


def test_colours_are_turned_with_their_pixels() -> None:
    view = view_slices(preprocessed(np.ones((6, 10, 2), np.float32), np.diag([1.0, 1.0, 4.0, 1.0])))
    colors = np.random.default_rng(0).random((12, 12, 3))
    for channel in range(3):
        np.testing.assert_array_equal(view.show(colors)[..., channel], view.show(colors[..., channel]))


def test_it_counts_the_scans_and_shows_the_fullest_slice(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    splits = open_cohort(str(shared_cohort.root), None, "").splits()
    case = splits["test"][0]
    shutil.copy(case["label"], tmp_path / f"{case['case']}_pred.nii.gz")
    figure = _draw(splits, tmp_path)
    given, made = figure.subfigs
    assert (
        given.get_suptitle() == f"in: {len(splits['training'])} labelled scans, {len(splits['unlabeled'])} unlabelled"
    )
    image, place = _slice(case["image"], case["label"])
    areas = [np.count_nonzero(area) for area in np.moveaxis(read_classes(case["label"])[0], 2, 0)]
    assert areas[place] == max(areas) > 0
    for axes in made.axes:
        np.testing.assert_array_equal(axes.images[0].get_array(), image.T)
    assert [len(axes.collections) for axes in made.axes] == [
        len(np.unique(read_classes(case["label"])[0][..., place])) - 1
    ] * 2


def test_an_existing_picture_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.png").write_bytes(b"old")
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["overview", "--predictions", str(tmp_path), "--output", str(tmp_path / "old.png")])
    assert "old.png: the file exists; give another name, or --force" in capsys.readouterr().err
    assert (tmp_path / "old.png").read_bytes() == b"old"
