"""Labels stored with other axes than their images."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from support.bundle_runs import CohortFolder, make_volumes
from support.format_parts import RAS_AFFINE

from vqseg_bundle.data import LabelToImaged, check_cohort, open_cohort

SHAPE = (4, 5, 6)
CODES = ["".join(c) for order in itertools.permutations(("RL", "AP", "SI")) for c in itertools.product(*order)]


def turned(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    change = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(codes))
    )
    return image.as_reoriented(change)


def tensor(image: nib.Nifti1Image) -> MetaTensor:
    return MetaTensor(torch.tensor(np.asarray(image.dataobj).copy())[None], affine=torch.tensor(image.affine))


@pytest.mark.parametrize("shape", [SHAPE, (4, 5, 1)])
@pytest.mark.parametrize("codes", CODES)
def test_a_flipped_or_permuted_label_comes_to_its_images_grid_exactly(codes: str, shape: tuple[int, ...]):
    classes = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    image = MetaTensor(torch.zeros(2, *shape), affine=torch.tensor(RAS_AFFINE))
    label = tensor(turned(nib.Nifti1Image(classes, RAS_AFFINE), codes))
    found = LabelToImaged("label")({"image": image, "label": label})["label"]
    np.testing.assert_array_equal(found.as_tensor()[0].numpy(), classes)
    assert torch.equal(found.affine, image.affine)


def test_a_label_that_lies_elsewhere_stays_as_it_is():
    image = MetaTensor(torch.zeros(1, *SHAPE), affine=torch.tensor(RAS_AFFINE))
    for wrong in (
        RAS_AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0]),  # the other way, and from the same first voxel
        RAS_AFFINE @ np.diag([1.0, 1.0, 2.0, 1.0]),
        RAS_AFFINE + np.array([[0, 0, 0, 0.1], *[[0] * 4] * 3]),
    ):
        label = MetaTensor(torch.ones(1, *SHAPE), affine=torch.tensor(wrong))
        assert LabelToImaged("label")({"image": image, "label": label})["label"] is label
    assert set(LabelToImaged("label", allow_missing_keys=True)({"image": image})) == {"image"}


@pytest.mark.parametrize("codes", ["LAS", "LPS", "SRA"])
def test_the_check_of_the_data_takes_such_labels(tmp_path: Path, codes: str):
    folder = CohortFolder(tmp_path)
    for seed in range(2):
        image, label = make_volumes(seed, (12, 13, 5), RAS_AFFINE)
        folder.add("training", f"case_{seed}", image, turned(label, codes))
    folder.save()
    cohort = open_cohort(str(tmp_path), str(tmp_path / "datalist.json"), str(tmp_path / "demo"))
    assert check_cohort(cohort, 1, "full", False) == []
