"""Labels with values other than 0, 1, 2, ..., and labels stored with other axes than their images."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from support.bundle_runs import CohortFolder, make_volumes
from support.data_parts import RAS_AFFINE, write_picture

from vqseg_bundle.bundle import load_model_record, write_model_record
from vqseg_bundle.data import (
    DataError,
    LabelToImaged,
    LoadVolumed,
    VolumeWriter,
    check_cohort,
    data_digest,
    examine_cohort,
    find_cases,
    find_classes,
    load_datalist,
    open_cohort,
    parse_label_values,
    read_classes,
)

BRATS = {0: 0, 1: 1, 2: 2, 3: 4}


STORED = np.array([[[0, 1], [2, 4]]], dtype=np.uint8)


CLASSES = np.array([[[0, 1], [2, 3]]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cases whose labels hold 0, 1, 2 and 4."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        label = rng.choice([0, 1, 2, 4], (8, 8, 4)).astype(np.uint8)
        for part, voxels in (("images", rng.normal(size=(8, 8, 4)).astype(np.float32)), ("labels", label)):
            (tmp_path / part).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / part / f"{name}.nii.gz")
    write_list(tmp_path, label_values=[0, 1, 2, 4])
    return tmp_path


def write_list(folder: Path, **changes: object) -> None:
    case = {part: f"{part}s/a.nii.gz" for part in ("image", "label")}
    content = {"labels": ["background", "necrosis", "oedema", "enhancing"], "training": [case], **changes}
    (folder / "datalist.json").write_text(json.dumps(content))


@pytest.mark.parametrize("given", [[0, 1, 2, 4], {"0": 0, "1": 1, "2": 2, "3": 4}, {3: 4, 0: 0, 1: 1, 2: 2}])
def test_a_list_or_a_mapping_says_the_same(given: object):
    assert parse_label_values(given, 4, "x") == BRATS


def test_values_that_are_the_indices_are_no_mapping():
    assert parse_label_values([0, 1, 2], 3, "x") == parse_label_values(None, 3, "x") == {}


def test_labels_are_read_as_classes(tmp_path: Path):
    path = str(tmp_path / "x.nii.gz")
    nib.save(nib.Nifti1Image(STORED, np.eye(4)), path)
    np.testing.assert_array_equal(read_classes(path, BRATS)[0], CLASSES)
    np.testing.assert_array_equal(LoadVolumed("label", True, label_values=BRATS)({"label": path})["label"], CLASSES)
    scattered = {0: 2, 1: 0, 2: 4, 3: 1}
    np.testing.assert_array_equal(read_classes(path, scattered)[0], [[[1, 3], [0, 2]]])
    with pytest.raises(DataError, match=r'x\.nii\.gz: values outside "label_values" \(0, 1, 2, 5\): found 0, 1, 2, 4'):
        read_classes(path, {0: 0, 1: 1, 2: 2, 3: 5})


def test_255_is_what_the_mapping_says_where_there_is_one(tmp_path: Path):
    """Of masks of 0, 128 and 255 one may hold 0 and 255 alone, which is class 2 in all of them."""
    path = str(write_picture(tmp_path / "x.png", np.array([[0, 255]], dtype=np.uint8)))
    classes, mapped = read_classes(path, {0: 0, 1: 128, 2: 255})
    assert (classes.ravel().tolist(), mapped) == ([0, 2], False)
    assert read_classes(path)[0].ravel().tolist() == [0, 1]


@pytest.mark.parametrize(("values", "dtype"), [(BRATS, np.uint8), ({0: 0, 1: 1, 2: 2, 3: 500}, np.uint16)])
def test_predictions_are_written_with_the_files_values(values: dict, dtype: type, tmp_path: Path):
    writer = VolumeWriter(output_dtype=dtype, label_values=values)
    writer.set_data_array(MetaTensor(torch.as_tensor(CLASSES[None]).float()))
    writer.set_metadata({"affine": np.eye(4)}, resample=False)
    writer.write(tmp_path / "p.nii.gz")
    found = nib.load(tmp_path / "p.nii.gz")
    assert found.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(found.dataobj).ravel(), [0, 1, 2, values[3]])


@pytest.mark.parametrize("axes", ["RAS", "PSR", "LSA", "IRP"])
def test_values_are_written_whatever_the_axes_of_the_volume(axes: str, tmp_path: Path):
    classes = np.arange(24).reshape(2, 3, 4) % 4
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(axes), classes.shape)
    writer = VolumeWriter(output_dtype=np.uint8, label_values=BRATS)
    writer.set_data_array(MetaTensor(torch.as_tensor(classes[None]).float(), affine=torch.as_tensor(affine)))
    writer.set_metadata({"affine": affine, "original_affine": affine}, resample=False)
    writer.write(tmp_path / "p.nii.gz")
    found = nib.load(tmp_path / "p.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.array([0, 1, 2, 4])[classes])
    np.testing.assert_allclose(found.affine, affine)


def test_the_check_counts_classes_and_names_values(folder: Path):
    cohort = load_datalist(folder / "datalist.json", folder)
    assert cohort.label_values == BRATS
    assert check_cohort(cohort, 1, progress=False, use_cache=False) == []
    stored = np.asarray(nib.load(folder / "labels/a.nii.gz").dataobj)
    counted = examine_cohort(cohort, 1, progress=False, use_cache=False).summary["classes"]
    assert [known["voxels"] for known in counted] == [int((stored == value).sum()) for value in (0, 1, 2, 4)]
    write_list(folder, label_values=[0, 1, 2, 7])
    with pytest.raises(DataError, match=r'a\.nii\.gz: values outside "label_values" \(0, 1, 2, 7\): found 0, 1, 2, 4'):
        check_cohort(load_datalist(folder / "datalist.json", folder), 1, progress=False, use_cache=False)


def test_a_label_of_the_backgrounds_value_alone_is_empty(folder: Path):
    nib.save(nib.Nifti1Image(np.full((8, 8, 4), 9, np.uint8), np.eye(4)), folder / "labels/a.nii.gz")
    write_list(folder, labels=["background", "x"], label_values=[9, 0])
    report = examine_cohort(load_datalist(folder / "datalist.json", folder), 1, progress=False, use_cache=False)
    assert {finding.code for finding in report.warnings} == {"empty_label"}


def test_the_check_takes_255_for_what_the_mapping_says(tmp_path: Path):
    """A mask of 0 and 255 would be one of the classes 0 and 1 without the mapping."""
    for name, values in (("a", [0, 255]), ("b", [128, 255])):
        write_picture(tmp_path / f"images/{name}.png", np.array([[3, len(name) + values[0]]], dtype=np.uint8))
        write_picture(tmp_path / f"labels/{name}.png", np.array([values], dtype=np.uint8))
    cases = [{"image": f"images/{name}.png", "label": f"labels/{name}.png"} for name in ("a", "b")]
    write_list(tmp_path, labels=["background", "x", "y"], label_values=[0, 128, 255], training=cases)
    report = examine_cohort(load_datalist(tmp_path / "datalist.json", tmp_path), 1, progress=False, use_cache=False)
    assert [known["voxels"] for known in report.summary["classes"]] == [1, 1, 2]
    assert not {"label_values", "mask_of_255"} & {finding.code for finding in report.findings}


def test_the_digest_tells_mappings_apart(folder: Path):
    with_values = data_digest(load_datalist(folder / "datalist.json", folder))
    write_list(folder)
    assert data_digest(load_datalist(folder / "datalist.json", folder)) != with_values


def test_a_folders_values_become_classes_in_rising_order(folder: Path):
    classes = find_classes(folder, find_cases(folder))
    assert classes.values == (0, 1, 2, 4)
    assert classes.names == ("background", "label_1", "label_2", "label_4")


def test_masks_of_0_128_and_255_have_three_classes(tmp_path: Path):
    for name, values in (("a", [0, 255]), ("b", [128, 255])):
        write_picture(tmp_path / f"images/{name}.png", np.array([[3, 9]], dtype=np.uint8))
        write_picture(tmp_path / f"labels/{name}.png", np.array([values], dtype=np.uint8))
    assert find_classes(tmp_path, find_cases(tmp_path)).values == (0, 128, 255)
    (tmp_path / "labels/b.png").unlink()
    assert find_classes(tmp_path, find_cases(tmp_path)).values == ()  # masks of 0 and 255 as ever


def test_the_record_keeps_the_values_and_old_records_have_none(tmp_path: Path):
    labels = {0: "background", 1: "a", 2: "b", 3: "c"}
    write_model_record(tmp_path / "model.json", {}, labels, {}, {}, BRATS)
    assert json.loads((tmp_path / "model.json").read_text())["label_values"] == {"0": 0, "1": 1, "2": 2, "3": 4}
    assert load_model_record(tmp_path / "model.pt")["label_values"] == BRATS
    write_model_record(tmp_path / "old.json", {}, labels, {}, {})
    assert "label_values" not in json.loads((tmp_path / "old.json").read_text())
    assert load_model_record(tmp_path / "old.pt")["label_values"] == {}


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
