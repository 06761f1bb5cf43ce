"""The check of a cohort: each fault of files, headers, voxels and lists gives its message."""

from __future__ import annotations

import dataclasses
import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.data_parts import AFFINE, LABELS, SHAPE, make_case, make_cohort, patch_header, refused, save

from vqseg_bundle.data import CheckedCases, Cohort, DataError, check_cases, check_cohort, data_digest, load_datalist


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return make_cohort(tmp_path)


def test_sound_cohort_gives_no_warning(cohort: Cohort):
    assert check_cohort(cohort, 1) == []
    assert check_cohort(cohort, 1, level="headers", required_split="validation") == []
    cases = [*cohort.training, {"image": cohort.unlabeled[0]["image"]}]
    assert check_cases(cases, LABELS, 1) == CheckedCases(cases, [], [])


def test_missing_file(cohort: Cohort):
    Path(cohort.unlabeled[0]["image"]).unlink()
    refused(cohort, r"b.nii.gz: no such file; correct the path", level="headers")


def test_paths_of_windows_are_told(cohort: Cohort):
    cohort.unlabeled[0]["image"] = "images\\b.nii.gz"
    refused(cohort, r"b.nii.gz: no such file; write / for each \\ in the datalist: its paths use /", level="headers")


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
    refused(cohort, r"b.nii.gz: expected a NIfTI file, found other content; convert it", level="headers")


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
    cohort.unlabeled[0]["image"] = save(tmp_path / "five.nii.gz", np.ones((8, 7, 5, 3, 2), np.float32))
    message = (
        r"five.nii.gz: expected an image of 2 or 3 dimensions, or 4 with channels last, found shape \(8, 7, 5, 3, 2\)"
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
    moved[0, 3] = 0.05  # two thirds of the limit of 0.075 mm
    label = np.ones(SHAPE, np.uint8)
    cohort.training[0]["label"] = save(tmp_path / "l.nii.gz", label, moved)
    assert check_cohort(cohort, 1, progress=False) == []
    moved[0, 3] = 0.15
    save(tmp_path / "l.nii.gz", label, moved)
    refused(cohort, r"l.nii.gz: affine differs from its image's by up to 0.15 mm at the corners")


def test_affine_without_volume(cohort: Cohort, tmp_path: Path):
    path = Path(save(tmp_path / "x.nii", np.ones(SHAPE, np.int16)))
    patch_header(path, 312, bytes(16))  # srow_z
    cohort.unlabeled[0]["image"] = str(path)
    refused(cohort, "x.nii: expected an affine with positive, finite voxel spacing")


def test_colour_voxels(cohort: Cohort, tmp_path: Path):
    rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    cohort.unlabeled[0]["image"] = save(tmp_path / "rgb.nii.gz", rgb)
    refused(cohort, "rgb.nii.gz: expected real numbers as voxels.*; save .* colours as channels of a fourth axis")


def test_complex_voxels(cohort: Cohort, tmp_path: Path):
    cohort.unlabeled[0]["image"] = save(tmp_path / "c.nii.gz", np.ones(SHAPE, np.complex64))
    refused(cohort, "c.nii.gz: expected real numbers as voxels, found type complex64; save the magnitude")
    np.save(tmp_path / "c.npy", np.ones(SHAPE, np.complex64))
    cohort.unlabeled[0]["image"] = str(tmp_path / "c.npy")
    refused(cohort, "c.npy: expected one array of real numbers, found complex64; save .* the magnitude")


def test_same_case_in_two_splits_even_through_a_link(cohort: Cohort, tmp_path: Path):
    (tmp_path / "link.nii.gz").symlink_to(cohort.training[0]["image"])
    cohort.unlabeled[0]["image"] = str(tmp_path / "link.nii.gz")
    expected = r'a.nii.gz: listed under "training" and "unlabeled"; list each case in only one split'
    refused(cohort, expected, level="headers")


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
    cohort = dataclasses.replace(cohort, training=[*cohort.training, make_case(tmp_path, "d")])
    found = check_cohort(cohort, 1, progress=False)
    assert sorted(warning.replace(f"{tmp_path}{os.sep}", "") for warning in found) == [
        "a_label.nii.gz: the label is empty (only background); leave it as it is if the structure is absent, "
        "otherwise correct it.",
        "c.nii.gz: all intensities are 4; leave the case out, or export it again.",
        "identical images, labelled and unlabelled: a.nii.gz, b.nii.gz (in training, unlabeled); leave it out of "
        '"unlabeled".',
    ]


def test_errors_of_lists_and_headers_do_not_hide_those_of_voxels(cohort: Cohort, tmp_path: Path):
    cohort.unlabeled[0]["image"] = save(tmp_path / "nan.nii.gz", np.full(SHAPE, np.nan, np.float32))
    Path(cohort.training[0]["label"]).unlink()
    cohort.validation.append(cohort.training[0])
    with pytest.raises(DataError, match=r"The data have 3 problems:") as caught:
        check_cohort(cohort, 1, progress=False)
    for message in ("a_label.nii.gz: no such file", "nan.nii.gz: 280 of 280 intensities", "a.nii.gz: listed under"):
        assert message in str(caught.value)


def test_voxels_under_a_header_without_spacing_are_checked(cohort: Cohort, tmp_path: Path):
    path = Path(save(tmp_path / "x.nii", np.full(SHAPE, np.nan, np.float32)))
    patch_header(path, 312, bytes(16))  # srow_z
    cohort.unlabeled[0]["image"] = str(path)
    refused(cohort, r"2 problems:\n- .*x.nii: expected an affine .*\n- .*x.nii: 280 of 280 intensities are NaN")


def test_tiny_voxels_are_shown_with_the_unit_they_are_probably_in(cohort: Cohort, tmp_path: Path):
    affine = np.diag([1e-5, 1e-5, 3e-5, 1.0])
    cohort.unlabeled[0]["image"] = save(tmp_path / "metres.nii.gz", np.arange(280.0).reshape(SHAPE), affine)
    message = r"metres.nii.gz: expected .* found voxels of 0\.00001 x 0\.00001 x 0\.00003 mm, so .* probably in metres;"
    refused(cohort, message, level="headers")


def test_axes_in_one_plane_are_no_volume(cohort: Cohort, tmp_path: Path):
    path = Path(save(tmp_path / "flat.nii", np.arange(280, dtype=np.int16).reshape(SHAPE)))
    rows = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]], np.float32)
    patch_header(path, 280, rows.tobytes())  # srow_x, srow_y, srow_z
    cohort.unlabeled[0]["image"] = str(path)
    refused(cohort, "flat.nii: expected an affine with .* found axes that lie in one plane", level="headers")


def test_validation_cases_without_label(cohort: Cohort):
    bare = {**cohort.validation[0], "case": "d", "patient": "d"}
    bare.pop("label")
    mixed = dataclasses.replace(cohort, validation=[cohort.training[0], bare], training=[cohort.validation[0]])
    mixed.training[0]["image"] = cohort.unlabeled[0]["image"]
    message = r'list.json: "validation" is what weights are selected by, but 1 case has no label: .*c.nii.gz; add its'
    refused(dataclasses.replace(mixed, unlabeled=[]), message, level="headers")
    test = [cohort.training[0]]
    assert check_cohort(Cohort("n", LABELS, validation=[bare], test=test), 1, "headers", True, "test") == []


def test_validation_without_any_structure_is_said(cohort: Cohort, tmp_path: Path):
    other = make_case(tmp_path, "d")
    cohort.validation.append(other)
    for case in cohort.validation:
        save(Path(case["label"]), np.zeros(SHAPE, np.uint8))
    (warning,) = [line for line in check_cohort(cohort, 1, progress=False) if "list.json" in line]
    assert 'no label of "validation" has any structure, only background: ' in warning
    assert "c_label.nii.gz" in warning
    assert "d_label.nii.gz; add cases that have some; as it is, no weights can be selected and the last" in warning
    save(Path(other["label"]), np.ones(SHAPE, np.uint8))
    assert not [line for line in check_cohort(cohort, 1, progress=False) if "list.json" in line]


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
    from vqseg_bundle.commands.data import main

    root = Path(os.environ.get("VQSEG_DATA_ROOT") or Path(__file__).parents[3] / "shared/data") / "acdc"
    if not root.is_dir():
        pytest.skip("needs the ACDC folder at VQSEG_DATA_ROOT")
    output = tmp_path / "datalist.json"
    options = ["--split-file", str(root / "split.json"), "--labeled-count", "3", "--labels", "background,rv,myo,lv"]
    main(["--dataset-dir", str(root), "--output", str(output), *options])
    warnings = check_cohort(load_datalist(output, root), 1, required_split="test", progress=False)
    turned = [warning for warning in warnings if "are turned by a quarter" in warning]
    assert [warning[:8] for warning in turned] == ["30 files"]
    assert len(warnings) == 3
    assert all("patient074" in warning and "patient076" in warning for warning in set(warnings) - set(turned))
