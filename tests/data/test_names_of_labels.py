"""What inference takes for labels and predictions by names that are common elsewhere, and what it does not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.folder_parts import fill

from vqseg_bundle.data import list_volumes
from vqseg_bundle.data.layouts.file_roles import LABELS_BESIDE, PREDICTIONS, RESULTS, folder_reason, image_reasons


def reasons(*names: str) -> dict[str, str]:
    found = image_reasons([f"/d/{name}.nii.gz" for name in names])
    return {path[3:-7]: reason for path, reason in found.items()}


LABELS = [
    ("volume-0", "segmentation-0"),
    ("img_01", "mask_01"),
    ("image1", "label1"),
    ("Volume-12", "SEGMENTATION-12"),
    ("x", "seg_x"),
    ("01", "mask_01"),
    ("img_01_0000", "mask_01"),
    ("sub-1_T1w", "sub-1_dseg"),
    ("x_T1w", "x_T1w_label-liver_seg"),
    ("x", "x_GT"),
    *(("x", f"x_{word}") for word in ("segmentations", "annotations", "labelmap", "truth", "roi", "manual")),
    *(("x", f"x_{word}") for word in ("mask_1", "liver_mask", "brainmask", "left_lung_seg", "ground_truth")),
    ("x", "x-label-map"),
]
PREDICTED = [
    ("x", f"x{ending}")
    for ending in ("_PRED", "_Prediction", ".pred", "_predicted", "_seg_pred", "_prob", "-probs", "_preds")
]
PREDICTED += [
    ("x", f"x{ending}")
    for ending in ("_pred_1", "_pred(1)", "_pred copy", "_pred copy 2", "_prediction_v2", "_prob_1", "_pred_nnunet")
]
PREDICTED += [("x", name) for name in ("pred_x", "prediction_x", "x_result", "x_output", "x_vqseg", "x_seg_result(2)")]
PREDICTED += [("x_0000", name) for name in ("pred_x", "x_output")]
SCANS = [
    ("segment3_T1", "segment3"),
    ("roi_study_001",),
    ("roi_study_001", "roi_study_002"),
    ("roi_study_001", "ct_study_001"),
    ("label_free_mri_02",),
    ("label_free_mri_02", "label_free_mri_01", "mri_02"),
    ("masked_t1", "t1"),
    ("unmasked_t1", "t1"),
    ("x", "x_masked"),
    ("x", "x_no_mask"),
    ("x", "x_without_mask"),
    ("x_roi", "y"),
    ("x_liver_mask", "y"),
    ("x_pred", "y"),
    ("mask_01", "mask_02"),
    ("mask_01", "label_01"),
    ("mask_01", "img_011"),
    ("seg_x", "y"),
    ("manual_01", "automatic_01"),
    ("p1_mask_off_t1", "p1"),
    ("prob_01", "img_01"),
    ("x_1", "x_2"),
    ("x_result", "y"),
    ("x_output_1", "x_output_2"),
    ("pred_x", "y"),
    ("x_vqseg", "y_vqseg"),
    ("x", "x_presentation"),
    ("a/x", "b/pred_x"),
    ("a/x", "b/x_result"),
    ("out/x", "results/x"),
    ("out/x", "y"),
    ("output_study/x", "x_1"),
    ("outside/x", "x_1", "inpatients/x"),
]
#: the folder of a volume x beside images/x or images/x_0000
VAGUE = (
    *("results", "Results", "nnUNet_results", "output", "outputs", "out", "out1", "inference", "results_2024-05-01"),
    *("pred-of-monday", "output/x", "results/a/b", "inferred"),
)


@pytest.mark.parametrize("names", LABELS, ids=" ".join)
def test_labels_beside_their_scan_are_left_out(names: tuple[str, str]) -> None:
    assert reasons(*names) == {names[1]: LABELS_BESIDE}
    assert reasons(names[1]) == {}


@pytest.mark.parametrize("names", PREDICTED, ids=" ".join)
def test_predictions_of_a_scan_are_left_out(names: tuple[str, str]) -> None:
    assert reasons(*names) == {names[1]: PREDICTIONS}
    assert reasons(names[1]) == {}


@pytest.mark.parametrize("folder", VAGUE)
@pytest.mark.parametrize(("image", "result"), [("x", "x"), ("x_0000", "x"), ("x", "x_seg")])
def test_volumes_in_folders_of_results_are_left_out_beside_their_scan(folder: str, image: str, result: str) -> None:
    assert reasons(f"images/{image}", f"{folder}/{result}") == {f"{folder}/{result}": RESULTS}
    assert reasons(f"images/{image}", f"{folder}/y") == {}
    assert reasons(f"{folder}/{image}", f"{folder}/images/{result}") == {}


@pytest.mark.parametrize("names", SCANS, ids=" ".join)
def test_scans_whose_names_have_such_words_are_segmented(names: tuple[str, ...]) -> None:
    assert reasons(*names) == {}


@pytest.mark.parametrize(
    ("reason", "names"),
    [
        (RESULTS, ["labelsTs_pred", "imagesTs_predictions", "Predictions", "my-preds", "previous-1"]),
        (RESULTS, ["predictionsTs", "inferTs", "predictions_1", "predictions (2)", "predictions.bak", "predicted"]),
        (RESULTS, ["labelsTs_predicted", "pred_nnunet", "infer_pred_v1", "segmentation_results", "seg_out"]),
        (RESULTS, ["totalsegmentator", "Predictions_test_old", "predictions copy 2"]),
        ("labels", ["manual_labels", "labels_final", "segmentations_v2", "masks_old", "labelsTr", "expert masks_v1"]),
        ("", ["results", "nnUNet_results", "output", "out", "inference", "prediction_of_patients"]),
        ("", ["images", "manual", "final", "label_free", "masked", "segment3", "prediction_study", "mask_01", "v2"]),
    ],
)
def test_folders_are_told_by_their_names(reason: str, names: list[str]) -> None:
    assert {name: folder_reason(name) for name in names} == dict.fromkeys(names, reason)


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("volume-0", "segmentation-0", "volume-0_PRED", "labelsTs_pred/volume-0", "manual_labels/volume-0"):
        fill(tmp_path, f"{name}.nii.gz")
    fill(tmp_path, "out/volume-0.nii.gz")
    with caplog.at_level(logging.INFO):
        assert [case["case"] for case in list_volumes(tmp_path)] == ["volume-0"]
    said = sorted(caplog.messages)
    assert [text.replace(f"{tmp_path}/", "") for text in said] == [
        "left out as labels of files beside them, by their names: segmentation-0.nii.gz",
        "left out as labels: manual_labels",
        "left out as predictions of other files, by their names: volume-0_PRED.nii.gz",
        "left out as results of earlier runs: labelsTs_pred, out/volume-0.nii.gz",
    ]
