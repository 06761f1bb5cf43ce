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
from support.bundle_runs import TINY, CohortFolder, refused, run_here

IGNORE = 3
SETTINGS = {**TINY, "max_iterations": 3, "iterations_per_epoch": 3, "device": "cpu", "confidence_threshold": 0.0}


@pytest.fixture
def sparse(cohort: CohortFolder) -> CohortFolder:
    """Labels of a single slice; the others are ignored."""
    cohort.datalist["labels"] = {**cohort.datalist["labels"], str(IGNORE): "ignore"}
    cohort.save()
    for path in sorted((cohort.root / "labels").glob("*.nii.gz")):
        label = nib.load(path)
        classes = np.asarray(label.dataobj).astype(np.uint8)
        labeled = int(np.argmax((classes > 0).sum(axis=(0, 1))))
        classes[..., np.arange(classes.shape[2]) != labeled] = IGNORE
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
    terms = parser.get_parsed_content("train#trainer").state.output["terms"]
    assert all(math.isfinite(value) for value in terms._asdict().values())
    assert "ignore" not in json.loads((tmp_path / "out" / "model.json").read_text())["labels"].values()


def test_an_evaluation_scores_only_the_labelled_slice(sparse: CohortFolder, tmp_path: Path) -> None:
    where = places(sparse, tmp_path / "out")
    run_here("training", "train.json", **where, **SETTINGS)
    run_here("evaluating", "train.json", "evaluate.json", **where, device="cpu")
    with (tmp_path / "out" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["case"] == "case_5"]
    label = np.asarray(nib.load(sparse.root / "labels" / "case_5.nii.gz").dataobj)
    pred = np.asarray(nib.load(tmp_path / "out" / "predictions" / "case_5_pred.nii.gz").dataobj)
    assert (pred[label == IGNORE] > 0).any()  # or this would prove nothing
    for row in rows:
        own, true = (pred == int(row["class_index"])) & (label != IGNORE), label == int(row["class_index"])
        assert float(row["dice"]) == pytest.approx(2 * (own & true).sum() / (own.sum() + true.sum()))


def test_a_label_that_is_ignored_everywhere_is_refused(sparse: CohortFolder, tmp_path: Path) -> None:
    path = sorted((sparse.root / "labels").glob("*.nii.gz"))[0]
    label = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(label.shape, IGNORE, np.uint8), label.affine), path)
    message = rf'{path.name}: every voxel is "ignore", none is labelled; list the image under "unlabeled"'
    refused(tmp_path / "out", message, "training", "train.json", dataset_dir=str(sparse.root))
