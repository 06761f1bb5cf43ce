"""Each kind of input, and the Decathlon's lung tumours, is trained on, evaluated and inferred by the configurations."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from support.bundle_runs import LABELS, ROOT, TINY, CohortFolder, make_volumes, run_here
from support.data_parts import write_picture, write_volume

from vqseg_bundle.commands.data import main
from vqseg_bundle.data import read_header

VOLUMES = {"nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha", "mhd": ".mhd", "dicom": ""}
PICTURES = {"png": ".png", "jpg": ".jpg", "tiff": ".tif", "npy": ".npy"}
KINDS = {**VOLUMES, **PICTURES}
TWO_STEPS = {**TINY, "max_iterations": 2, "iterations_per_epoch": 2}
DATA = Path(os.environ.get("VQSEG_DATA_ROOT") or ROOT.parent / "shared" / "data")


class Runs(NamedTuple):
    """A training's data and what it left.

    Attributes:
        root: the cohort's folder.
        output_dir: where training and evaluation wrote.
        trained: the training's configuration.
    """

    root: Path
    output_dir: Path
    trained: ConfigParser


def write_case(root: Path, kind: str, name: str, seed: int) -> dict[str, str]:
    """An image of the kind with a label: of a picture a PNG, of DICOM a NIfTI, else alike."""
    image, label = make_volumes(seed)
    voxels, classes = np.asarray(image.dataobj), np.asarray(label.dataobj)
    if kind in PICTURES:
        entry = {"image": f"pictures/{name}{KINDS[kind]}", "label": f"masks/{name}.png"}
        pixels = np.clip(voxels[:, :-3, 1] + 50, 0, 255).astype(np.uint8)
        write_picture(root / entry["image"], pixels)
        write_picture(root / entry["label"], classes[:, :-3, 1])
        return entry
    suffix = KINDS[kind] or ".nii.gz"
    entry = {"image": f"volumes/{name}{KINDS[kind]}", "label": f"labels/{name}{suffix}"}
    affine = np.diag([-1.5, -1.5, 6.0, 1.0])
    write_volume(root / entry["image"], voxels.astype(np.int16), affine)
    write_volume(root / entry["label"], classes, affine)
    return entry


def keys(root: Path | str, output_dir: Path) -> dict[str, str]:
    return {"dataset_dir": str(root), "output_dir": str(output_dir)}


def assert_finite(parser: ConfigParser) -> None:
    terms = parser.get_parsed_content("train#trainer").state.output["terms"]._asdict()
    assert all(math.isfinite(value.item()) for value in terms.values()), terms


def assert_on_grid(prediction: Path, image: Path, classes: int = 3) -> np.ndarray:
    found, header = nib.load(prediction), read_header(str(image))
    assert found.shape == header.spatial_shape
    np.testing.assert_allclose(found.affine, header.affine, atol=1e-5)
    values = np.asanyarray(found.dataobj)
    assert set(np.unique(values)) <= set(range(classes))
    return values


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """One training on a labelled and an unlabelled case of every kind, and its evaluation on a test case of each."""
    root = tmp_path_factory.mktemp("kinds")
    lists: dict[str, list] = {"training": [], "unlabeled": [], "test": []}
    for number, kind in enumerate(KINDS):
        for place, split in enumerate(lists):
            lists[split].append(write_case(root, kind, f"{kind}_{split}", 3 * number + place))
    (root / "datalist.json").write_text(json.dumps({"labels": LABELS, **lists}))
    trained = run_here("training", "train.json", **keys(root, root / "out"), **TWO_STEPS)
    run_here("evaluating", "train.json", "evaluate.json", **keys(root, root / "out"), device="cpu")
    return Runs(root, root / "out", trained)


def test_a_training_on_every_kind_has_finite_losses(runs: Runs) -> None:
    assert_finite(runs.trained)
    record = json.loads((runs.output_dir / "model.json").read_text())["preprocessing"]
    assert (record["orientation"], record["slice_axis"]) == ("RAS", "axial")
    assert record["intensity_window"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_writes_every_kind_on_its_own_grid(runs: Runs, kind: str) -> None:
    folder = "pictures" if kind in PICTURES else "volumes"
    name = f"{kind}_test"
    assert_on_grid(runs.output_dir / "predictions" / f"{name}_pred.nii.gz", runs.root / folder / f"{name}{KINDS[kind]}")


@pytest.mark.parametrize(("folder", "kinds"), [("volumes", VOLUMES), ("pictures", PICTURES)])
def test_an_inference_finds_every_kind_and_gives_what_the_evaluation_gave(
    runs: Runs, tmp_path: Path, folder: str, kinds: dict[str, str]
) -> None:
    run_here(
        "inference",
        "inference.json",
        **keys(runs.root / folder, tmp_path),
        checkpoint=f"{runs.output_dir}/model.pt",
        device="cpu",
    )
    assert len(list((tmp_path / "predictions").glob("*.nii.gz"))) == 3 * len(kinds)
    for kind, suffix in kinds.items():
        name = f"{kind}_test"
        inferred = assert_on_grid(
            tmp_path / "predictions" / f"{name}_pred.nii.gz", runs.root / folder / f"{name}{suffix}"
        )
        evaluated = nib.load(runs.output_dir / "predictions" / f"{name}_pred.nii.gz")
        np.testing.assert_array_equal(inferred, np.asanyarray(evaluated.dataobj))


def test_colour_pictures_with_masks_of_0_and_255(tmp_path: Path) -> None:
    for seed in range(4):
        voxels, classes = (np.asarray(volume.dataobj)[:, :, 1] for volume in make_volumes(seed))
        colors = np.clip(np.stack([voxels, 2 * voxels, 250 - voxels], axis=-1), 0, 255).astype(np.uint8)
        write_picture(tmp_path / f"images/{seed}.png", colors)
        if seed < 3:
            write_picture(tmp_path / f"labels/{seed}.png", (classes > 0).astype(np.uint8) * 255)
    main(["--dataset-dir", str(tmp_path), "--labeled-count", "2", "--test-count", "1"])
    assert_finite(run_here("training", "train.json", **keys(tmp_path, tmp_path / "out"), **TWO_STEPS, in_channels=3))
    where = keys(tmp_path / "images", tmp_path / "inferred")
    run_here("inference", "inference.json", **where, checkpoint=str(tmp_path / "out/model.pt"), device="cpu")
    found = assert_on_grid(tmp_path / "inferred/predictions/3_pred.nii.gz", tmp_path / "images/3.png")
    assert found.max() <= 1
    assert "255 is read as class 1 in 3 masks of 0 and 255: " in (tmp_path / "out/training.log").read_text()


def test_an_intensity_window_is_recorded_and_repeated(tmp_path: Path) -> None:
    entries = [write_case(tmp_path, "dicom", f"case_{seed}", seed) for seed in range(3)]
    lists = {"training": entries[:1], "unlabeled": entries[1:2], "test": entries[2:]}
    (tmp_path / "datalist.json").write_text(json.dumps({"labels": LABELS, **lists}))
    window = {"intensity_window": [-100, 300]}
    trained = run_here("training", "train.json", **keys(tmp_path, tmp_path / "out"), **TWO_STEPS, **window)
    assert json.loads((tmp_path / "out/model.json").read_text())["preprocessing"]["intensity_window"] == [-100, 300]
    where = keys(tmp_path / "volumes" / "case_2", tmp_path / "inferred")
    inferred = run_here("inference", "inference.json", **where, checkpoint=str(tmp_path / "out/model.pt"), device="cpu")
    case = trained.get_parsed_content("cohort").test[0]
    seen = trained.get_parsed_content("validate#preprocessing")(case)["image"]
    again = inferred.get_parsed_content("preprocessing")({"image": case["image"]})["image"]
    np.testing.assert_array_equal(seen.numpy(), again.numpy())
    stored = np.asarray(make_volumes(2)[0].dataobj).astype(np.int16)  # LPS, as DICOM is
    voxels = np.clip((stored[::-1, ::-1] + 100) / 400, 0, 1)
    np.testing.assert_allclose(seen[0].numpy(), (voxels - voxels.mean()) / voxels.std(), atol=1e-4)
    assert_on_grid(tmp_path / "inferred/predictions/case_2_pred.nii.gz", tmp_path / case["image"])


@pytest.mark.parametrize("window", [[400, -1000], [1], "lung"])
def test_a_window_that_is_none_is_refused(shared_cohort: CohortFolder, tmp_path: Path, window: object) -> None:
    where = {"dataset_dir": str(shared_cohort.root), "output_dir": str(tmp_path / "out")}
    with pytest.raises(SystemExit, match="intensity_window must hold two rising intensities, or be None, got"):
        run_here("training", "train.json", **where, intensity_window=window, device="cpu")


@pytest.mark.data
@pytest.mark.parametrize("name", ["acdc", "hippocampus", "covid_ct"])
def test_real_data_train_as_they_are(tmp_path: Path, name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"needs the folder {name} at VQSEG_DATA_ROOT ({DATA})")
    datalist = tmp_path / "datalist.json"
    classes = {"acdc": "background,a,b,c", "hippocampus": "background,a,b", "covid_ct": "background,a,b"}[name]
    main(["--dataset-dir", str(DATA / name), "--labels", classes, "--test-count", "1", "--output", str(datalist)])
    content = json.loads(datalist.read_text())
    few = {split: content[split][:2] for split in ("training", "unlabeled", "test")}
    datalist.write_text(json.dumps({**content, **few}))
    where = {**keys(DATA / name, tmp_path / "out"), "datalist": str(datalist)}
    assert_finite(run_here("training", "train.json", **where, **TWO_STEPS, image_size=[64, 64]))
    evaluation = run_here("evaluating", "train.json", "evaluate.json", **where, device="cpu")
    for case in evaluation.get_parsed_content("cohort").test:
        prediction = tmp_path / "out/predictions" / f"{case['case']}_pred.nii.gz"
        assert_on_grid(prediction, Path(case["image"]), len(content["labels"]))
    if name == "covid_ct" and (DATA / "lung_ct_dicom").is_dir():
        series = {**keys(DATA / "lung_ct_dicom", tmp_path / "ct"), "checkpoint": str(tmp_path / "out/model.pt")}
        parser = run_here("inference", "inference.json", **series, device="cpu")
        (case,) = parser.get_parsed_content("cases")
        assert_on_grid(tmp_path / "ct/predictions" / f"{case['case']}_pred.nii.gz", Path(case["image"]))


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
