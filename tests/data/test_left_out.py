"""What ``vqseg data`` leaves out of a folder by its name, and says so: results, labels and previews are no scans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.data_parts import write_dicom, write_picture
from support.folder_parts import fill

from vqseg_bundle.commands.data import main
from vqseg_bundle.data import DataError, find_cases, find_unused_files

PAIR = ("images/0.nii.gz", "labels/0.nii.gz", "images/u.nii.gz")
PARTS = ("labeled/images/a.nii.gz", "labeled/labels/a.nii.gz", "unlabeled/images/u.nii.gz")
PATIENTS = ("p/image.nii.gz", "p/label.nii.gz", "q/image.nii.gz")
RESULTS, LABELS = "results of earlier runs", "labels"
NAMED = "predictions of other files, by their names"
PREVIEWS = "previews of the volumes beside them"

#: the cohort, what else lies there, and what is said
LEFT_OUT = {
    "our own output": (PAIR, ["images/predictions/0_pred.nii.gz"], f"{RESULTS}: images/predictions"),
    "results put aside": (PAIR, ["images/sub/previous-1/0_pred.nii.gz"], f"{RESULTS}: images/sub/previous-1"),
    "results by a vague name": (
        PAIR,
        ["images/out/0.nii.gz", "old results/u.nii.gz"],
        f"{RESULTS}: images/out/0.nii.gz, old results/u.nii.gz",
    ),
    "labels among images": (PAIR, ["images/labels/0.nii.gz", "images/labels/u.nii.gz"], f"{LABELS}: images/labels"),
    "a label by its whole name": (
        PAIR,
        ["images/sub/ct.nii.gz", "images/sub/seg.nii.gz"],
        "labels of files beside them, by their names: images/sub/seg.nii.gz",
    ),
    "a prediction": (PAIR, ["images/u_pred.nii.gz"], f"{NAMED}: images/u_pred.nii.gz"),
    "a prediction elsewhere": (PAIR, ["images/old/u_pred.nii.gz"], f"{NAMED}: images/old/u_pred.nii.gz"),
    "a prediction of an unlabelled part": (
        PARTS,
        ["unlabeled/images/u_pred.nii.gz"],
        f"{NAMED}: unlabeled/images/u_pred.nii.gz",
    ),
    "a prediction beside its image": (
        ("a.nii.gz", "a_seg.nii.gz", "b.nii.gz"),
        ["a_pred.nii.gz", "a_entropy.nii.gz"],
        f"{NAMED}: a_entropy.nii.gz, a_pred.nii.gz",
    ),
    "predictions in a patient's folder": (
        PATIENTS,
        ["p/image_pred.nii.gz", "p/label_pred.nii.gz"],
        f"{NAMED}: p/image_pred.nii.gz, p/label_pred.nii.gz",
    ),
    "results beside patients' folders": (
        PATIENTS,
        ["predictions/q_pred.nii.gz", "p/predictions/p_pred.nii.gz"],
        f"{RESULTS}: p/predictions, predictions",
    ),
    "a stray picture": (PAIR, ["images/zz.png"], f"{PREVIEWS}: images/zz.png"),
    "a picture of a volume": (PAIR, ["images/0.png"], f"{PREVIEWS}: images/0.png"),
    "a picture of a training": (
        ("images/0.png", "labels/0.png", "images/u.png"),
        ["images/out/progress.png", "images/out/run.json"],
        f"{RESULTS}: images/out/progress.png",
    ),
}


def put(root: Path, *names: str) -> None:
    for name in names:
        if name.endswith(".png"):
            write_picture(root / name, np.eye(6, 5, dtype=np.uint8))
        elif name.endswith(".json"):
            (root / name).write_text("{}")
        else:
            fill(root, name)


def listed(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict, str]:
    """The datalist that the command makes of a folder, and what it says."""
    main(["--dataset-dir", str(root), "--labels", "background,one,two", "--force"])
    return json.loads((root / "datalist.json").read_text()), capsys.readouterr().out


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_is_no_image_is_no_case_and_is_named(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, others, said = LEFT_OUT[kind]
    put(tmp_path, *cohort)
    before, printed = listed(tmp_path, capsys)
    assert "left out as" not in printed
    put(tmp_path, *others)
    after, printed = listed(tmp_path, capsys)
    if "images/sub/ct.nii.gz" in others:
        before["unlabeled"].insert(0, {"image": "images/sub/ct.nii.gz", "patient": "sub_ct"})
    assert sorted(after["unlabeled"], key=str) == sorted(before["unlabeled"], key=str)
    assert after == {**before, "unlabeled": after["unlabeled"]}
    assert f"left out as {said}\n" in printed
    assert "of no case" not in printed


@pytest.mark.parametrize(
    "names",
    [
        ("images/0.png", "labels/0.png", "images/u.png"),
        ("images/0.nii.gz", "labels/0.nii.gz", "images/zz.png", "labels/zz.png"),
        ("images/0.nii.gz", "labels/0.nii.gz", "images/0_pred.nii.gz", "labels/0_pred.nii.gz"),
        ("images/seg/0.nii.gz", "labels/seg/0.nii.gz"),
        ("images/mask/0.nii.gz", "labels/mask_0_seg.nii.gz"),
        ("a.nii.gz", "a_seg.nii.gz", "a_pred.nii.gz", "a_pred_seg.nii.gz"),
        ("images/x_pred.nii.gz", "images/y.nii.gz", "labels/y.nii.gz"),
        ("labels/predictions/images/a.nii.gz", "labels/predictions/labels/a.nii.gz"),
    ],
)
def test_what_may_be_an_image_is_one(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Pictures alone, whatever has a label of its name, predictions of nothing there, and any folder that is given."""
    put(tmp_path, *names)
    root = tmp_path / "labels/predictions" if names[0].startswith("labels") else tmp_path
    cases = find_cases(root)
    found = {root / path for case in cases for path in (case.image, case.label) if path}
    assert found == {tmp_path / name for name in names}
    assert find_unused_files(root, cases) == {}


def test_series_and_links_that_are_left_out_are_named(tmp_path: Path) -> None:
    """Slices have no suffix; the folder of results lies elsewhere, another one in that of a series."""
    root, slices = tmp_path / "cohort", np.zeros((4, 3, 2), np.int16)
    put(root, *PAIR, "images/p/predictions/p_pred.nii.gz", "images/p/overview.png")
    write_dicom(root / "images/p", slices)
    write_dicom(root / "images/masks/0", slices, uid="1.2.3")
    put(tmp_path, "elsewhere/0_pred.nii.gz")
    (root / "images/predictions").symlink_to(tmp_path / "elsewhere")
    cases = find_cases(root)
    assert [case.image for case in cases] == ["images/0.nii.gz", "images/p", "images/u.nii.gz"]
    assert find_unused_files(root, cases) == {
        "labels": ["images/masks"],
        RESULTS: ["images/p/predictions", "images/predictions"],
        PREVIEWS: ["images/p/overview.png"],
    }


def test_a_folder_without_images_says_what_it_has(tmp_path: Path) -> None:
    put(tmp_path, "images/predictions/0_pred.nii.gz", "labels/0.nii.gz")
    message = r"found only results of earlier runs: images/predictions/0_pred\.nii\.gz; put the images there"
    with pytest.raises(DataError, match=message):
        find_cases(tmp_path)
