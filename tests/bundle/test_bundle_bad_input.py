"""Input that no run can use: refused before the first step, by a message that names it, without a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support.bundle_runs import (
    TINY,
    CohortFolder,
    as_arguments,
    command_here,
    make_volumes,
    oblique_affine,
    refused,
)

IMAGE, LABEL = "images/case_0.nii.gz", "labels/case_0.nii.gz"


def delete_an_image(cohort: CohortFolder) -> None:
    (cohort.root / IMAGE).unlink()


def list_no_labelled_case(cohort: CohortFolder) -> None:
    cohort.datalist["training"] = []


def paint_an_unknown_label(cohort: CohortFolder) -> None:
    label = make_volumes(0)[1]
    cohort.write(
        LABEL, nib.Nifti1Image(np.where(np.asanyarray(label.dataobj) == 2, 7, 0).astype(np.uint8), label.affine)
    )


def cut_a_label(cohort: CohortFolder) -> None:
    cohort.write(LABEL, make_volumes(0, (32, 32, 3))[1])


def turn_a_label(cohort: CohortFolder) -> None:
    cohort.write(LABEL, make_volumes(0, affine=oblique_affine())[1])


def add_a_fourth_axis(cohort: CohortFolder) -> None:
    image = make_volumes(0)[0]
    cohort.write(IMAGE, nib.Nifti1Image(np.stack([image.get_fdata(dtype=np.float32)] * 2, axis=-1), image.affine))


def put_in_nan(cohort: CohortFolder) -> None:
    image = make_volumes(0)[0]
    voxels = image.get_fdata(dtype=np.float32)
    voxels[3, 4, 1:3] = [np.nan, np.inf]
    cohort.write(IMAGE, nib.Nifti1Image(voxels, image.affine))


def truncate_an_image(cohort: CohortFolder) -> None:
    path = cohort.root / IMAGE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty_an_image(cohort: CohortFolder) -> None:
    (cohort.root / IMAGE).write_bytes(b"")


def list_a_case_in_two_splits(cohort: CohortFolder) -> None:
    cohort.datalist["test"].append(cohort.datalist["training"][0])


def list_a_patient_in_two_splits(cohort: CohortFolder) -> None:
    cohort.datalist["training"][0]["patient"] = cohort.datalist["validation"][0]["patient"] = "p1"


def misname_a_list(cohort: CohortFolder) -> None:
    cohort.datalist["unlabelled"] = cohort.datalist.pop("unlabeled")


SPOILED: list[tuple[Callable[[CohortFolder], None], str]] = [
    (delete_an_image, r"case_0\.nii\.gz: no such file; correct the path"),
    (list_no_labelled_case, r'datalist\.json: no labelled cases; "training" needs at least one'),
    (paint_an_unknown_label, r'labels/case_0\.nii\.gz: values outside "labels" \(0, 1, 2\): found 0, 7'),
    (cut_a_label, r"labels/case_0\.nii\.gz: shape \(32, 32, 3\) differs from its image's, \(32, 32, 4\)"),
    (turn_a_label, r"labels/case_0\.nii\.gz: affine differs from its image's by up to 210\.8 mm at the corners"),
    (add_a_fourth_axis, r"case_0\.nii\.gz: expected 1 channel \(in_channels\), found 2 channels"),
    (put_in_nan, r"case_0\.nii\.gz: 2 of 4096 intensities are NaN or infinite"),
    (truncate_an_image, r"case_0\.nii\.gz: truncated or unreadable"),
    (empty_an_image, r"case_0\.nii\.gz: the file is empty"),
    (list_a_case_in_two_splits, r'case_0\.nii\.gz: listed under "training" and "test"'),
    (list_a_patient_in_two_splits, r'patient "p1" is in "training" and "validation"'),
    (misname_a_list, r'unknown list "unlabelled".*Did you mean "unlabeled"'),
]


#: one of a kind; more than a hundred: tests/bundle/test_senseless_input.py
SENSELESS: list[tuple[dict[str, Any], str]] = [
    ({"network_def#num_embeddings": 1}, r"network_def: num_embeddings \(K, .* must be at least 2, got 1"),
    ({"network_def#norm": 1}, r"network_def: it cannot be built from its keys \(TypeError: "),
    ({"learning_rate": 0}, r"--learning_rate: expected a number from 1e-12 to 1, found 0\."),
    ({"spatial_dims": 2, "patch_size": [32, 32, 4]}, r"patch_size must hold 2 sizes in voxels.*got \[32, 32, 4\]"),
    ({"image_size": [1, 1]}, r"image_size \[1, 1\] .*: 4 of 4 scans would have fewer than 4 voxels along an axis"),
    ({"spacing": [1e-3, 1e-3]}, r"a scan of 32 x 32 x 4 .* would become one of 4\.8e\+04 x 4\.8e\+04 x 4.* of memory"),
    ({"intensity_window": [1e9, 2e9]}, r"7 of 7 scans have no intensity within it; theirs are from -\d+.* to 2"),
    ({"optimizer#lr": 0}, r"--optimizer#lr: expected a number from 1e-12 to 1, found 0\."),
    ({"lr_scheduler#power": "x"}, r"--lr_scheduler#power: expected a number from 0 to 100, found 'x'"),
    ({"network_def#out_channels": 5}, r"network_def#out_channels: expected 3, for the labels 0, 1, 2, found 5"),
    ({"device": "gpu"}, r"device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
    ({"device": "meta"}, r"device is 'meta', on which PyTorch cannot compute here"),
    ({"foundation_model": "dino"}, r"foundation_model must be one of .* got 'dino'"),
    ({"slice_axis": 3}, r'slice_axis must be "auto", "sagittal", "coronal", "axial", 0, 1 or 2, got 3'),
    ({"resume": True}, r"resume: there is no checkpoint .*resume\.pt"),
    ({"datalist": "nowhere.json"}, r"datalist nowhere\.json: no such file"),
    ({"dataset_dir": "nowhere"}, r"dataset_dir nowhere: expected a folder, found nothing"),
    ({"dataset_dir": ""}, r"--dataset_dir: expected a path, found an empty text"),
]


@pytest.mark.parametrize("spoil, message", SPOILED, ids=[spoil.__name__ for spoil, _ in SPOILED])
def test_training_refuses_a_spoiled_cohort(
    cohort: CohortFolder, tmp_path: Path, spoil: Callable[[CohortFolder], None], message: str
) -> None:
    spoil(cohort)
    cohort.save()
    refused(tmp_path / "out", message, "training", "train.json", dataset_dir=str(cohort.root), **TINY)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("overrides, message", SENSELESS, ids=[next(iter(keys)) for keys, _ in SENSELESS])
def test_training_refuses_settings_that_make_no_sense(
    shared_cohort: CohortFolder, tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    settings = {**TINY, "dataset_dir": str(shared_cohort.root), **overrides}
    refused(tmp_path / "out", message, "training", "train.json", **settings)


def test_output_below_a_file_is_refused(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = r"output_dir '.*' is not writable: .*file is a file\. Name a folder"
    refused(tmp_path / "file" / "out", message, "training", "train.json", dataset_dir=str(shared_cohort.root), **TINY)


def test_a_path_that_monai_would_change_is_refused(cohort: CohortFolder, tmp_path: Path) -> None:
    cohort.root.rename(tmp_path / "scan #1")
    message = r"--dataset_dir: expected a path without #, which MONAI would read as ::, found '.*scan #1'. Rename"
    refused(tmp_path / "out", message, "training", "train.json", dataset_dir=str(tmp_path / "scan #1"), **TINY)


def test_identical_images_are_a_warning(cohort: CohortFolder, tmp_path: Path) -> None:
    shutil.copy(cohort.root / "images" / "case_2.nii.gz", cohort.root / "images" / "case_3.nii.gz")
    settings = {**TINY, "max_iterations": 1, "dataset_dir": str(cohort.root), "output_dir": str(tmp_path)}
    result = command_here("run", "training", "--config_file", "configs/train.json", *as_arguments(settings))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "WARNING identical images: " in result.stdout
    assert "case_2.nii.gz, " in result.stdout.split("identical images: ")[1]
    assert (tmp_path / "model.pt").is_file()


def test_a_foundation_model_without_weights_says_where_to_get_them(
    shared_cohort: CohortFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = r"No foundation_weights file is given.*Download https://.*pass the file by the key foundation_weights"
    settings = {**TINY, "dataset_dir": str(shared_cohort.root)}
    refused(tmp_path / "out", message, "training", "train.json", "pfa.json", **settings)
    message = r"foundation_weights: there is no file 'none\.pth'"
    refused(tmp_path / "out", message, "training", "train.json", "pfa.json", **settings, foundation_weights="none.pth")


@pytest.mark.parametrize(
    "spoil, overrides, message",
    [
        (put_in_nan, {}, "case_0.nii.gz: 2 of 4096 intensities are NaN or infinite; replace them"),
        (None, {"network_def#num_embeddings": 1}, "network_def: num_embeddings (K, the number of codewords) must be"),
        (None, {"max_iteration": 5}, "Unknown key '--max_iteration'. Did you mean max_iterations"),
    ],
    ids=["data", "setting", "key"],
)
def test_the_command_ends_with_the_message_alone(
    cohort: CohortFolder,
    tmp_path: Path,
    spoil: Callable[[CohortFolder], None] | None,
    overrides: dict[str, Any],
    message: str,
) -> None:
    if spoil is not None:
        spoil(cohort)
    settings = {**TINY, "dataset_dir": cohort.root, "output_dir": tmp_path / "out", **overrides}
    result = command_here("run", "training", "--config_file", "configs/train.json", *as_arguments(settings))
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert not (tmp_path / "out").exists()


def test_a_labelled_share_of_no_patient_is_refused(cohort: CohortFolder) -> None:
    arguments = [
        "--dataset-dir",
        str(cohort.root),
        "--labeled-share",
        "0.01",
        "--output",
        str(cohort.root / "new.json"),
    ]
    result = command_here("data", *arguments, module="vqseg_bundle")
    assert result.returncode == 2
    assert "labeled-share" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (cohort.root / "new.json").exists()
