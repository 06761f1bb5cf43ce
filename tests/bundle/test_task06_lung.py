"""The overlay for the Decathlon's lung tumours: CT window, in-plane spacing, labelled crops that find the tumour."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser
from support.bundle_runs import TINY, run_here
from support.format_parts import write_volume

SETTINGS = {**TINY, "max_iterations": 2, "iterations_per_epoch": 2, "patch_size": [16, 16], "cache_rate": 1.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> ConfigParser:
    """Two steps on CT volumes of 80 x 80 x 6 voxels of 0.8 x 0.8 x 2.5 mm with a tumour of 3 x 3 x 2 voxels."""
    root = tmp_path_factory.mktemp("lung")
    rng = np.random.default_rng(0)
    entries = []
    for index in range(3):
        image = rng.normal(-800, 50, (80, 80, 6)).astype(np.int16)
        label = np.zeros(image.shape, np.uint8)
        label[20:23, 60:63, 2:4] = 1
        image[label == 1] = 60
        image[:2] = 3000  # metal: outside the window
        image[79, 79] = -1000
        entry = {"image": f"imagesTr/lung_{index}.nii.gz", "label": f"labelsTr/lung_{index}.nii.gz"}
        for key, voxels in (("image", image), ("label", label)):
            write_volume(root / entry[key], voxels, np.diag([0.8, 0.8, 2.5, 1.0]))
        entries.append(entry)
    content = {"labels": {"0": "background", "1": "cancer"}, "training": entries[:2], "unlabeled": entries[2:]}
    (root / "dataset.json").write_text(json.dumps({**content, "test": ["./imagesTr/lung_2.nii.gz"][:0]}))
    where = {"dataset_dir": str(root), "output_dir": str(root / "out")}
    return run_here("training", "train.json", "task06_lung.json", **where, **SETTINGS)


def test_it_trains_and_records_window_and_spacing(trained: ConfigParser):
    terms = trained.get_parsed_content("train#trainer").state.output["terms"]._asdict()
    assert all(math.isfinite(value.item()) for value in terms.values())
    folder = Path(trained.get_parsed_content("ckpt_dir"))
    record = json.loads((folder / "model.json").read_text())["preprocessing"]
    assert (record["intensity_window"], record["spacing"], record["slice_axis"]) == ([-1000, 400], [0.8, 0.8], "axial")


def test_every_other_labelled_crop_has_the_tumour_and_unlabelled_ones_seldom(trained: ConfigParser):
    labeled = trained.get_parsed_content("train#dataset")
    crops = [crop for _ in range(20) for index in range(2) for crop in labeled[index]]
    assert all(crop["label"].shape == (1, 16, 16) and "label_cls_indices" not in crop for crop in crops)
    share = np.mean([float(crop["label"].max()) for crop in crops])
    # 40 draws: half of the centers lie in the tumour; by chance 1 crop in 40 would show it
    assert 0.25 < share < 0.8
    unlabeled = trained.get_parsed_content("train#unlabeled_dataset")
    assert isinstance(unlabeled[0], dict)
    assert unlabeled[0]["image"].shape == unlabeled[0]["strong"].shape == (1, 16, 16)


def test_the_window_clips(trained: ConfigParser):
    case = trained.get_parsed_content("cohort").unlabeled[0]
    image = trained.get_parsed_content("validate#preprocessing")(case)["image"]
    metal, tumour, air = (float(image[place]) for place in ((0, 0, 0, 0), (0, 21, 61, 2), (0, 79, 79, 0)))
    # metal at 3000 HU stands where 400 HU would: (60 + 1000) / (400 + 1000)
    assert (tumour - air) / (metal - air) == pytest.approx(1060 / 1400, abs=1e-4)
