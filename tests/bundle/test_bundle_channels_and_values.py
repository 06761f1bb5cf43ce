"""A whole course on images of two channels in files of their own, and on labels that hold 0, 1 and 4."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from support.bundle_runs import ROOT, TINY, make_volumes, run_here

from vqseg_bundle import load

VALUES = [0, 1, 4]


def write_case(folder: Path, name: str, seed: int) -> np.ndarray:
    """Two channels, the second the first's negative, and a label; the label's classes are returned."""
    image, label = make_volumes(seed)
    classes = np.asarray(label.dataobj)
    voxels = np.asarray(image.dataobj)
    stored = np.array(VALUES, dtype=np.uint8)[classes]
    for part, content in (("images", voxels), ("images", -voxels), ("labels", stored)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        ending = "" if part == "labels" else "_0000" if content is voxels else "_0001"
        nib.save(nib.Nifti1Image(content, image.affine), folder / part / f"{name}{ending}.nii.gz")
    return classes


def course_settings() -> dict[str, Any]:
    settings = {key: value for key, value in TINY.items() if "embedding" not in key and "reconstruction" not in key}
    settings |= {"max_iterations": 120, "iterations_per_epoch": 60, "learning_rate": 0.01, "ema_decay": 0.9}
    # a seed with which so few steps on a single label learn the small structure
    return settings | {"in_channels": 2, "seed": 1}


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the cohort and of a finished training."""
    root = tmp_path_factory.mktemp("course")
    entries = []
    for seed in range(4):
        write_case(root, f"c{seed}", seed)
        channels = [f"images/c{seed}_000{channel}.nii.gz" for channel in range(2)]
        entries.append({"image": channels, "label": f"labels/c{seed}.nii.gz"})
    splits = {"training": entries[:1], "unlabeled": entries[1:2], "validation": entries[2:3], "test": entries[3:]}
    content = {"labels": ["background", "shell", "core"], "label_values": VALUES, "channel_names": ["a", "b"]}
    (root / "datalist.json").write_text(json.dumps({**content, **splits}))
    places = {"dataset_dir": str(root), "output_dir": str(root / "out")}
    run_here("training", "train.json", "supervised.json", **course_settings(), **places)
    return root, root / "out"


def test_the_record_says_what_files_hold(course: tuple[Path, Path]):
    record = json.loads((course[1] / "model.json").read_text())
    assert record["label_values"] == {"0": 0, "1": 1, "2": 4}
    assert record["info"]["channel_names"] == ["a", "b"]
    assert record["network"]["in_channels"] == 2


@pytest.mark.parametrize(
    ("run_id", "change", "message"),
    [
        (
            "training",
            {"label_values": [0, 4, 1]},
            r"settings differ from those of the training.*\n  the data: digest \w+, now \w+ \(cases, splits, labels.*"
            r"\n.*, or train anew \(leave resume out\), or fine-tune in another output_dir: --initial_weights \S+l\.pt",
        ),
        ("training", {"channel_names": ["b", "a"]}, r"trained on channels a, b, here .* order b, a; list"),
        (
            "evaluating",
            {"channel_names": ["b", "a"]},
            r"trained on channels a, b, here .* order b, a; list",
        ),
    ],
)
def test_files_that_hold_them_in_another_order_are_refused(
    course: tuple[Path, Path], tmp_path: Path, run_id: str, change: dict[str, list], message: str
):
    root, out = course
    (tmp_path / "d.json").write_text(json.dumps(json.loads((root / "datalist.json").read_text()) | change))
    settings: dict[str, Any] = {"dataset_dir": str(root), "datalist": str(tmp_path / "d.json"), "device": "cpu"}
    if run_id == "training":
        settings |= course_settings() | {"output_dir": str(out), "resume": True}
        configs = ("train.json", "supervised.json")
    else:
        settings |= {"checkpoint": str(out / "model.pt"), "output_dir": str(tmp_path / "out")}
        configs = ("train.json", "evaluate.json")
    with pytest.raises(SystemExit, match=message):
        run_here(run_id, *configs, **settings)


def test_an_evaluation_scores_classes_and_saves_the_files_values(course: tuple[Path, Path], tmp_path: Path):
    root, out = course
    places = {"dataset_dir": str(root), "checkpoint": str(out / "model.pt"), "output_dir": str(tmp_path)}
    run_here("evaluating", "train.json", "evaluate.json", **places, device="cpu")
    saved = np.asarray(nib.load(tmp_path / "predictions" / "c3_pred.nii.gz").dataobj)
    label = np.asarray(nib.load(root / "labels/c3.nii.gz").dataobj)
    assert saved.dtype == np.uint8
    assert set(np.unique(saved)) <= set(VALUES)
    with (tmp_path / "metrics.csv").open() as file:
        rows = {row["class_name"]: float(row["dice"]) for row in csv.DictReader(file)}
    for name, value in (("shell", 1), ("core", 4)):
        both = 2 * ((saved == value) & (label == value)).sum() / ((saved == value).sum() + (label == value).sum())
        assert rows[name] == pytest.approx(both, abs=1e-4)
    assert rows["core"] > 0.5  # learnt, so that the value 4 is among the predictions


def test_inference_does_as_the_evaluation_did(course: tuple[Path, Path], tmp_path: Path):
    """The order of channels matters: exchanged they give another segmentation."""
    root, out = course
    (tmp_path / "in").mkdir()
    for channel in range(2):
        name = f"c3_000{channel}.nii.gz"
        (tmp_path / "in" / name).symlink_to(root / "images" / name)
        (tmp_path / "in" / f"z_000{1 - channel}.nii.gz").symlink_to(root / "images" / name)
    (tmp_path / "in" / "lacks_0000.nii.gz").symlink_to(root / "images" / name)
    places = {"dataset_dir": str(tmp_path / "in"), "checkpoint": str(out / "model.pt"), "device": "cpu"}
    run_here("run", "inference.json", **places, output_dir=str(tmp_path / "out"))
    found = tmp_path / "out" / "predictions"
    assert sorted(path.name for path in found.glob("*.nii.gz")) == ["c3_pred.nii.gz", "z_pred.nii.gz"]
    right, exchanged = (np.asarray(nib.load(found / f"{case}_pred.nii.gz").dataobj) for case in ("c3", "z"))
    label = np.asarray(nib.load(root / "labels/c3.nii.gz").dataobj)
    assert 4 in right
    assert ((right == 4) & (label == 4)).sum() > 2 * ((exchanged == 4) & (label == 4)).sum()
    assert "lacks_0001.nii.gz: no such file" in (found / "inference.log").read_text()
    channels = "|".join(str(root / "images" / f"c3_000{channel}.nii.gz") for channel in range(2))
    np.testing.assert_array_equal(load(out, "cpu")(channels).classes, right)
    # a model of named sequences knows files by BraTS's names in any order
    record = json.loads((out / "model.json").read_text())
    record["info"]["channel_names"] = ["T1w", "T2w"]
    (tmp_path / "model.json").write_text(json.dumps(record))
    (tmp_path / "model.pt").symlink_to(out / "model.pt")
    for channel, ending in enumerate(("t1", "t2")):
        (tmp_path / f"c3_{ending}.nii.gz").symlink_to(root / "images" / f"c3_000{channel}.nii.gz")
    for order in (("t1", "t2"), ("t2", "t1")):
        named = "|".join(str(tmp_path / f"c3_{ending}.nii.gz") for ending in order)
        np.testing.assert_array_equal(load(tmp_path, "cpu")(named).classes, right)


def test_the_model_says_in_which_order_inference_stacks_files(course: tuple[Path, Path], tmp_path: Path):
    record = json.loads((course[1] / "model.json").read_text())
    for section in ("network", "preprocessing"):
        record[section]["in_channels"] = 4
    record["info"]["channel_names"] = ["T1", "T1ce", "T2", "FLAIR"]
    (tmp_path / "model.json").write_text(json.dumps(record))
    (tmp_path / "model.pt").touch()
    for ending in ("flair", "t1", "t1ce", "t2"):
        shutil.copy(course[0] / "images" / "c3_0000.nii.gz", tmp_path / f"q_{ending}.nii.gz")
    places = {"dataset_dir": str(tmp_path), "checkpoint": str(tmp_path / "model.pt")}
    parser = ConfigParser({**ConfigParser.load_config_file(ROOT / "configs" / "inference.json"), **places})
    (case,) = parser.get_parsed_content("cases")
    assert case["image"] == "|".join(f"{tmp_path}/q_{name}.nii.gz" for name in ("t1", "t1ce", "t2", "flair"))
