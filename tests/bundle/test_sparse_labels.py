"""Labels with a last class "ignore": what nobody has labelled takes part as unlabelled."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.transforms import Compose
from support.bundle_runs import CONFIGS, TINY, CohortFolder, make_volumes, refused, run_here

IGNORE, STORED = 3, 255  # the index, and what files say
SETTINGS = {**TINY, "max_iterations": 3, "iterations_per_epoch": 3, "device": "cpu", "confidence_threshold": 0.0}


@pytest.fixture
def sparse(cohort: CohortFolder) -> CohortFolder:
    """Labels of a single slice; the others are ignored."""
    cohort.datalist["labels"] = {**cohort.datalist["labels"], str(IGNORE): "ignore"}
    cohort.datalist["label_values"] = [0, 1, 2, STORED]
    cohort.save()
    for path in sorted((cohort.root / "labels").glob("*.nii.gz")):
        label = nib.load(path)
        classes = np.asarray(label.dataobj).astype(np.uint8)
        labeled = int(np.argmax((classes > 0).sum(axis=(0, 1))))
        classes[..., np.arange(classes.shape[2]) != labeled] = STORED
        nib.save(nib.Nifti1Image(classes, label.affine), path)
    return cohort


def places(cohort: CohortFolder, output_dir: Path) -> dict[str, Any]:
    return {"dataset_dir": str(cohort.root), "output_dir": str(output_dir)}


def test_training_sees_labelled_slices_and_takes_the_rest_as_unlabelled(sparse: CohortFolder, tmp_path: Path) -> None:
    shares: list[float] = []

    def watch(parser: ConfigParser) -> None:
        def keep(engine: Engine) -> None:
            shares.append(float((engine.state.output["label"] < IGNORE).float().mean()))

        parser.get_parsed_content("train#trainer").add_event_handler(Events.ITERATION_COMPLETED, keep)

    parser = run_here("training", "train.json", before=watch, **places(sparse, tmp_path / "out"), **SETTINGS)
    assert parser.get_parsed_content("labels") == {0: "background", 1: "shell", 2: "core"}
    assert min(shares) > 0.5
    trained, unlabeled = (parser.get_parsed_content(key) for key in ("train#dataset#data", "unlabeled_data"))
    assert {case["image"] for case in trained} <= {case["image"] for case in unlabeled}
    assert not any("label" in case for case in unlabeled)
    counted = [case["image"] for case in parser.get_parsed_content("codebook_cases")]
    assert sorted(counted) == sorted({case["image"] for case in [*trained, *unlabeled]})
    terms = parser.get_parsed_content("train#trainer").state.output["terms"]
    assert all(math.isfinite(value) for value in terms._asdict().values())
    record = json.loads((tmp_path / "out" / "model.json").read_text())
    assert list(record["labels"].values()) == ["background", "shell", "core"]
    assert "label_values" not in record  # of classes these are the indices


def prepared(cohort: CohortFolder, patch_size: list[int], *chains: str) -> tuple[Compose, dict[str, str]]:
    """Some chains of transforms, and the first training case."""
    parser = ConfigParser(ConfigParser.load_config_file(CONFIGS / "train.json"))
    planned = {"spacing": None, "image_size": None, "intensity_window": None, "intensity_statistics": None}
    planned |= {"spatial_dims": len(patch_size), "normalize_nonzero": False, "patch_size": patch_size}
    parser.update({**planned, "dataset_dir": str(cohort.root), "device": "cpu"})
    parser.update({"parser": parser, "chosen_orientation": None, "chosen_slice_axis": 2})
    steps = Compose([Compose(parser.get_parsed_content(key)) for key in ("load_image", "load_label", *chains)])
    return steps.set_random_state(seed=0), parser.get_parsed_content("cohort").training[0]


def test_what_pads_a_sparse_label_is_not_background(sparse: CohortFolder) -> None:
    transform, case = prepared(sparse, [48, 40], "volume_transforms")
    label = transform(case)["label"][0]
    assert label.shape == (48, 40, 4)
    inside = label[8:40, 4:36]
    assert int((label == IGNORE).sum()) == label.numel() - 32 * 32
    assert int((inside != IGNORE).sum()) == 32 * 32


@pytest.mark.parametrize("place", [0, -1, (0, 0), (-1, -1)], ids=["first slice", "last slice", "corner", "last corner"])
@pytest.mark.parametrize("patch_size", [[16, 16], [16, 16, 4], [15, 13, 3], [24, 24, 8]], ids=str)
def test_labels_at_the_edge_are_in_every_labelled_crop(
    cohort: CohortFolder, patch_size: list[int], place: int | tuple[int, int]
) -> None:
    """All but a slice, or a voxel of a corner, is "ignore": no crop is centred there."""
    cohort.datalist["labels"] = {**cohort.datalist["labels"], str(IGNORE): "ignore"}
    image, label = make_volumes(0, (24, 24, 8))
    sparse = np.full(label.shape, IGNORE, np.uint8)
    kept = (slice(None), slice(None), place) if isinstance(place, int) else (*place, place[0])
    sparse[kept] = np.asarray(label.dataobj)[kept]
    cohort.write("images/case_0.nii.gz", image)
    cohort.write("labels/case_0.nii.gz", nib.Nifti1Image(sparse, label.affine))
    cohort.save()
    transform, case = prepared(cohort, patch_size, "volume_transforms", "labeled_crop")
    for _ in range(10):
        (crop,) = transform(case)
        assert crop["image"].shape == crop["label"].shape == (1, *patch_size, *([1] if len(patch_size) == 2 else []))
        assert int((crop["label"] != IGNORE).sum()) >= 1
        assert "labeled" not in crop


def test_an_evaluation_scores_only_the_labelled_slice(sparse: CohortFolder, tmp_path: Path) -> None:
    where = places(sparse, tmp_path / "out")
    run_here("training", "train.json", **where, **SETTINGS)
    run_here("evaluating", "train.json", "evaluate.json", **where, device="cpu")
    with (tmp_path / "out" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["case"] == "case_5"]
    label = np.asarray(nib.load(sparse.root / "labels" / "case_5.nii.gz").dataobj)
    pred = np.asarray(nib.load(tmp_path / "out" / "predictions" / "case_5_pred.nii.gz").dataobj)
    assert (pred[label == STORED] > 0).any()  # or this would prove nothing
    for row in rows:
        own, true = (pred == int(row["class_index"])) & (label != STORED), label == int(row["class_index"])
        assert float(row["dice"]) == pytest.approx(2 * (own & true).sum() / (own.sum() + true.sum()))


def test_a_label_that_is_ignored_everywhere_is_refused(sparse: CohortFolder, tmp_path: Path) -> None:
    path = sorted((sparse.root / "labels").glob("*.nii.gz"))[0]
    label = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(label.shape, STORED, np.uint8), label.affine), path)
    message = rf'{path.name}: every voxel is "ignore", none is labelled; list the image under "unlabeled"'
    refused(tmp_path / "out", message, "training", "train.json", dataset_dir=str(sparse.root))
