from __future__ import annotations

import dataclasses
import gzip
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from vqseg_bundle.data import Cohort, DataError, check_cases, check_cohort, data_digest, load_datalist

LABELS = {0: "background", 1: "organ"}
AFFINE = np.diag([1.5, 1.5, 6.0, 1.0])
SHAPE = (8, 7, 5)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)


def make_case(folder: Path, name: str, seed: int = 0, labeled: bool = True) -> dict[str, str]:
    rng = np.random.default_rng([seed, len(name), *name.encode()])
    case = {"image": save(folder / f"{name}.nii.gz", rng.integers(0, 99, SHAPE).astype(np.int16))}
    if labeled:
        case["label"] = save(folder / f"{name}_label.nii.gz", rng.integers(0, 2, SHAPE).astype(np.uint8))
    return {**case, "case": name, "patient": name}


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(
        name="n",
        labels=LABELS,
        training=[make_case(tmp_path, "a")],
        unlabeled=[make_case(tmp_path, "b", labeled=False)],
        validation=[make_case(tmp_path, "c")],
        source="list.json",
    )


def refused(cohort: Cohort, message: str, **options: object) -> None:
    with pytest.raises(DataError, match=message):
        check_cohort(cohort, 1, progress=False, **options)


def test_sound_cohort_gives_no_warning(cohort: Cohort):
    assert check_cohort(cohort, 1) == []
    assert check_cohort(cohort, 1, level="headers", required_split="validation") == []
    assert check_cases([*cohort.training, {"image": cohort.unlabeled[0]["image"]}], LABELS, 1) == []


def test_missing_file(cohort: Cohort):
    Path(cohort.unlabeled[0]["image"]).unlink()
    refused(cohort, r"b.nii.gz: no such file; correct the path", level="headers")


def test_folder_instead_of_file(cohort: Cohort, tmp_path: Path):
    cohort.unlabeled[0]["image"] = str(tmp_path)
    refused(
        cohort, "expected a volume file, or a folder of DICOM slices, found a folder without DICOM", level="headers"
    )


def test_empty_file(cohort: Cohort):
    Path(cohort.training[0]["label"]).write_bytes(b"")
    refused(cohort, r"a_label.nii.gz: the file is empty", level="headers")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_file_is_found_without_reading_voxels(cohort: Cohort, tmp_path: Path, suffix: str):
    path = tmp_path / f"t{suffix}"
    save(path, np.random.default_rng(0).integers(0, 999, (32, 32, 32)).astype(np.int16))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cohort.unlabeled[0]["image"] = str(path)
    refused(cohort, rf"t{suffix}: truncated or unreadable", level="headers")


def test_short_content_packed_well_is_truncated(cohort: Cohort, tmp_path: Path):
    plain = Path(save(tmp_path / "t.nii", np.ones(SHAPE, np.int16))).read_bytes()
    (tmp_path / "t.nii.gz").write_bytes(gzip.compress(plain[:-20]))
    cohort.unlabeled[0]["image"] = str(tmp_path / "t.nii.gz")
    refused(cohort, r"t.nii.gz: truncated or unreadable \(.* bytes expected", level="headers")


def test_file_packed_in_two_parts_is_sound(cohort: Cohort, tmp_path: Path):
    plain = Path(save(tmp_path / "t.nii", np.arange(280, dtype=np.int16).reshape(SHAPE))).read_bytes()
    (tmp_path / "t.nii.gz").write_bytes(gzip.compress(plain[:400]) + gzip.compress(plain[400:]))
    cohort.unlabeled[0]["image"] = str(tmp_path / "t.nii.gz")
    assert check_cohort(cohort, 1, progress=False) == []


def test_file_broken_within_is_found_with_the_voxels(cohort: Cohort):
    path = Path(cohort.unlabeled[0]["image"])
    content = bytearray(path.read_bytes())
    content[-8] ^= 0xFF  # the checksum
    path.write_bytes(bytes(content))
    refused(cohort, r"b.nii.gz: truncated or unreadable \(.*copy it again")


def test_other_content_than_nifti(cohort: Cohort):
    Path(cohort.unlabeled[0]["image"]).write_bytes(gzip.compress(b"text" * 200))
    refused(cohort, r"b.nii.gz: truncated or unreadable", level="headers")


def test_no_labeled_cases(cohort: Cohort):
    empty = dataclasses.replace(cohort, training=[])
    refused(empty, r'list.json: no labelled cases; "training" needs')
    assert check_cohort(empty, 1, allow_no_labeled=True, progress=False) == []


def test_no_cases_at_all():
    refused(Cohort(name="n", labels=LABELS, source="list.json"), "no cases at all", allow_no_labeled=True)


def test_required_split_is_empty(cohort: Cohort):
    refused(cohort, r'evaluation_split is "test", which is empty; list labelled cases', required_split="test")


def test_required_split_without_label(cohort: Cohort):
    cohort.validation[0].pop("label")
    message = r'list.json: evaluation_split is "validation", of which none of 1 cases has a label; list labelled cases'
    refused(cohort, message, required_split="validation")


def test_cases_to_evaluate_without_label_are_left_out_with_a_warning(cohort: Cohort):
    bare = {**cohort.unlabeled[0], "case": "bare", "patient": "bare"}
    mixed = dataclasses.replace(cohort, test=[*cohort.test, *cohort.validation, bare], unlabeled=[], validation=[])
    (warning,) = check_cohort(mixed, 1, required_split="test", progress=False)
    assert 'evaluation_split is "test", of which 1 case has no label and cannot be evaluated' in warning
    assert "b.nii.gz; label it; to segment it all the same, use configs/inference.json." in warning


def test_wrong_channels_4d_included(cohort: Cohort, tmp_path: Path):
    cohort.unlabeled[0]["image"] = save(tmp_path / "four.nii.gz", np.ones((*SHAPE, 2), np.float32))
    refused(cohort, r"four.nii.gz: expected 1 channel \(in_channels\), found 2 channels \(shape \(8, 7, 5, 2\)\)")
    with pytest.raises(DataError, match=r"a.nii.gz: expected 2 channels \(in_channels\), found 1 channel "):
        check_cohort(cohort, 2, progress=False)


def test_wrong_number_of_dimensions(cohort: Cohort, tmp_path: Path):
    cohort.unlabeled[0]["image"] = save(tmp_path / "five.nii.gz", np.ones((8, 7, 5, 1, 2), np.float32))
    message = (
        r"five.nii.gz: expected an image of 2 or 3 dimensions, or 4 with channels last, found shape \(8, 7, 5, 1, 2\)"
    )
    refused(cohort, message + "; save it anew")


def test_label_with_channels(cohort: Cohort, tmp_path: Path):
    cohort.training[0]["label"] = save(tmp_path / "hot.nii.gz", np.ones((*SHAPE, 2), np.uint8))
    refused(cohort, "hot.nii.gz: expected a label of 1 channel")


def test_shape_of_image_and_label_differ(cohort: Cohort, tmp_path: Path):
    cohort.training[0]["label"] = save(tmp_path / "l.nii.gz", np.ones((8, 7, 4), np.uint8))
    refused(cohort, r"l.nii.gz: shape \(8, 7, 4\) differs from its image's, \(8, 7, 5\) \(.*a.nii.gz\)")


def test_affine_of_image_and_label_differ_beyond_tolerance(cohort: Cohort, tmp_path: Path):
    moved = AFFINE.copy()
    moved[0, 3] = 1e-3  # two thirds of the tolerance of 1.5e-3 mm
    label = np.ones(SHAPE, np.uint8)
    cohort.training[0]["label"] = save(tmp_path / "l.nii.gz", label, moved)
    assert check_cohort(cohort, 1, progress=False) == []
    moved[0, 3] = 3e-3
    save(tmp_path / "l.nii.gz", label, moved)
    refused(cohort, r"l.nii.gz: affine differs from its image's by up to 0.003 mm")


def test_affine_without_volume(cohort: Cohort, tmp_path: Path):
    path = Path(save(tmp_path / "x.nii", np.ones(SHAPE, np.int16)))
    content = bytearray(path.read_bytes())
    content[312:328] = bytes(16)  # srow_z
    path.write_bytes(bytes(content))
    cohort.unlabeled[0]["image"] = str(path)
    refused(cohort, "x.nii: expected an affine with positive, finite voxel spacing")


def test_colour_voxels(cohort: Cohort, tmp_path: Path):
    rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    cohort.unlabeled[0]["image"] = save(tmp_path / "rgb.nii.gz", rgb)
    refused(cohort, "rgb.nii.gz: expected real numbers as voxels")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_intensities(cohort: Cohort, tmp_path: Path, value: float):
    voxels = np.ones(SHAPE, np.float32)
    voxels[2, 3, 1:3] = value
    cohort.unlabeled[0]["image"] = save(tmp_path / "nan.nii.gz", voxels)
    refused(cohort, r"nan.nii.gz: 2 of 280 intensities are NaN or infinite")
    assert check_cohort(cohort, 1, level="headers") == []


def test_label_value_outside_labels_lists_what_was_found(cohort: Cohort, tmp_path: Path):
    label = np.zeros(SHAPE, np.int16)
    label.flat[:2] = 1, 7
    cohort.training[0]["label"] = save(tmp_path / "l.nii.gz", label)
    refused(cohort, r'l.nii.gz: values outside "labels" \(0, 1\): found 0, 1, 7;')
    label[-1] = -1
    save(tmp_path / "l.nii.gz", label)
    refused(cohort, "found -1, 0, 1, 7;")


def test_float_labels_hold_whole_numbers(cohort: Cohort, tmp_path: Path):
    label = np.zeros(SHAPE, np.float32)
    label[3] = 1
    cohort.training[0]["label"] = save(tmp_path / "l.nii.gz", label)
    assert check_cohort(cohort, 1, progress=False) == []
    label[3] = 0.5
    save(tmp_path / "l.nii.gz", label)
    refused(cohort, r"l.nii.gz: values that are not whole numbers .* found 0, 0.5;")
    label[3] = np.nan
    save(tmp_path / "l.nii.gz", label)
    refused(cohort, r"l.nii.gz: values that are not whole numbers .* found 0, nan;")


def test_many_label_values_are_cut(cohort: Cohort, tmp_path: Path):
    cohort.training[0]["label"] = save(tmp_path / "l.nii.gz", np.arange(280, dtype=np.int16).reshape(SHAPE))
    refused(cohort, r"found 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 270 more;")


def test_intensity_scale_in_the_header_is_applied(tmp_path: Path):
    path = Path(save(tmp_path / "scaled.nii", np.ones(SHAPE, np.int16)))
    content = bytearray(path.read_bytes())
    content[112:116] = np.float32(0.5).tobytes()  # scl_slope
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"found 0\.5;"):
        check_cases([{"image": make_case(tmp_path, "a")["image"], "label": str(path)}], LABELS, 1)


def test_same_case_in_two_splits_even_through_a_link(cohort: Cohort, tmp_path: Path):
    (tmp_path / "link.nii.gz").symlink_to(cohort.training[0]["image"])
    cohort.unlabeled[0]["image"] = str(tmp_path / "link.nii.gz")
    refused(cohort, r'a.nii.gz: listed under "training" and "unlabeled"; a case may be in one split', level="headers")


def test_same_patient_in_two_splits(cohort: Cohort):
    cohort.training[0]["patient"] = cohort.validation[0]["patient"] = "p1"
    refused(cohort, r'patient "p1" is in "training" and "validation" \(.*a.nii.gz, .*c.nii.gz\)', level="headers")


def test_case_listed_twice_in_a_split_is_a_warning(cohort: Cohort):
    twice = dataclasses.replace(cohort, unlabeled=cohort.unlabeled * 2)
    (warning,) = check_cohort(twice, 1, level="headers")
    assert warning.endswith('b.nii.gz: listed 2 times under "unlabeled"; list it once.')


def test_warnings_for_identical_images_empty_label_and_constant_image(cohort: Cohort, tmp_path: Path):
    shutil.copy(cohort.training[0]["image"], cohort.unlabeled[0]["image"])
    save(Path(cohort.training[0]["label"]), np.zeros(SHAPE, np.uint8))
    save(Path(cohort.validation[0]["image"]), np.full(SHAPE, 4, np.int16))
    found = check_cohort(cohort, 1, progress=False)
    assert sorted(warning.replace(f"{tmp_path}{os.sep}", "") for warning in found) == [
        "a_label.nii.gz: the label is empty (background alone); leave it as it is if the structure is absent, "
        "otherwise correct it.",
        "c.nii.gz: all intensities are 4; leave the case out, or export it again.",
        "identical images, labelled and unlabelled: a.nii.gz, b.nii.gz (in training, unlabeled); leave it out of "
        '"unlabeled".',
    ]


def test_up_to_twenty_problems_and_the_number_of_others(tmp_path: Path):
    cases = [{"image": f"/gone/{i}.nii.gz", "case": str(i), "patient": str(i)} for i in range(25)]
    with pytest.raises(DataError, match=r"The data have 25 problems:") as caught:
        check_cases(cases, LABELS, 1)
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "... and 5 more."


def test_headers_come_before_voxels(cohort: Cohort, tmp_path: Path):
    cohort.unlabeled[0]["image"] = save(tmp_path / "nan.nii.gz", np.full(SHAPE, np.nan, np.float32))
    Path(cohort.training[0]["label"]).unlink()
    with pytest.raises(DataError, match=r"The data have 1 problem:\n- .*a_label.nii.gz: no such file"):
        check_cohort(cohort, 1, progress=False)


def test_unknown_options_are_refused(cohort: Cohort):
    with pytest.raises(ValueError, match="level must be one of headers, full, got 'some'"):
        check_cohort(cohort, 1, level="some")
    with pytest.raises(ValueError, match="required_split must be one of validation, test, got 'training'"):
        check_cohort(cohort, 1, required_split="training")


def test_digest_follows_content_and_splits_but_not_the_place(cohort: Cohort, tmp_path: Path):
    before = data_digest(cohort)
    assert len(before) == 64
    assert data_digest(dataclasses.replace(cohort, unlabeled=[], test=cohort.unlabeled)) != before
    assert data_digest(dataclasses.replace(cohort, labels={0: "background", 1: "other"})) != before

    shutil.copytree(tmp_path, tmp_path.parent / "moved")
    moved = {
        split: [{k: v.replace(str(tmp_path), str(tmp_path.parent / "moved")) for k, v in c.items()} for c in cases]
        for split, cases in cohort.splits().items()
    }
    assert data_digest(dataclasses.replace(cohort, **moved)) == before

    make_case(tmp_path, "b", seed=1, labeled=False)
    assert data_digest(cohort) != before


@pytest.mark.data
def test_identical_acdc_images_are_named(tmp_path: Path):
    from scripts.make_datalist import main

    root = Path(os.environ.get("VQSEG_DATA_ROOT") or Path(__file__).parents[2] / "shared/data") / "acdc"
    if not root.is_dir():
        pytest.skip("needs the ACDC folder at VQSEG_DATA_ROOT")
    output = tmp_path / "datalist.json"
    options = ["--split-file", str(root / "split.json"), "--labeled-count", "3", "--labels", "background,rv,myo,lv"]
    main(["--dataset-dir", str(root), "--output", str(output), *options])
    warnings = check_cohort(load_datalist(output, root), 1, required_split="test", progress=False)
    assert len(warnings) == 2
    assert all("patient074" in warning and "patient076" in warning for warning in warnings)
