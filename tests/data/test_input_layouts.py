"""Each layout of folders goes from disk to a prediction: its datalist, a training of two steps, what is inferred."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from support.bundle_runs import LABELS, TINY, make_volumes, run_here
from support.data_parts import write_dicom, write_picture, write_volume

from vqseg_bundle.commands.data import main
from vqseg_bundle.data import read_header

AFFINE = np.diag([-1.5, -1.5, 6.0, 1.0])
NAMES = ("--labels", ",".join(LABELS.values()))
TWO_STEPS = {**TINY, "max_iterations": 2, "iterations_per_epoch": 2}


def arrays(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image in whole numbers and its classes, ``(32, 32, 4)``."""
    image, label = make_volumes(seed)
    return np.asarray(image.dataobj).astype(np.int16), np.asarray(label.dataobj)


def put_volumes(root: Path, seed: int, image: str, label: str | None = None) -> None:
    voxels, classes = arrays(seed)
    write_volume(root / image, voxels, AFFINE)
    if label is not None:
        write_volume(root / label, classes, AFFINE)


def put_pictures(root: Path, seed: int, image: str, label: str | None = None, color: bool = False) -> None:
    voxels, classes = (array[:, :-5, 1] for array in arrays(seed))
    pixels = np.clip(voxels + 50, 0, 255).astype(np.uint8)
    write_picture(root / image, np.stack([pixels, pixels // 2, 255 - pixels], axis=-1) if color else pixels)
    if label is not None:
        write_picture(root / label, classes)


def acdc(root: Path) -> list[str]:
    for seed, part in enumerate(("training/patient001", "training/patient002", "testing/patient101")):
        folder, name = root / part, part.split("/")[1]
        put_volumes(folder, seed, f"{name}_frame01.nii.gz", f"{name}_frame01_gt.nii.gz")
        write_volume(folder / f"{name}_4d.nii.gz", np.stack([arrays(seed)[0]] * 3, axis=-1), AFFINE)
        (folder / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: NOR\n")
    return ["--labeled-count", "1"]


def decathlon(root: Path) -> list[str]:
    entries = [{key: f"./{key}sTr/la_{seed}.nii.gz" for key in ("image", "label")} for seed in range(4)]
    for seed, entry in enumerate(entries):
        put_volumes(root, seed, entry["image"], entry["label"])
    put_volumes(root, 9, "imagesTs/la_9.nii.gz")
    content = {"name": "heart", "labels": LABELS, "training": entries, "test": ["./imagesTs/la_9.nii.gz"]}
    (root / "dataset.json").write_text(json.dumps(content))
    return ["--labeled-count", "2", "--test-count", "1"]


def pairs(root: Path) -> list[str]:
    for seed in range(4):
        put_volumes(root, seed, f"images/c{seed}.nii.gz", f"labels/c{seed}_seg.nrrd" if seed < 3 else None)
    return ["--labeled-count", "2", "--test-count", "1"]


def labeled_and_unlabeled(root: Path) -> list[str]:
    for seed in range(3):
        put_pictures(root, seed, f"labeled/images/{seed}.jpg", f"labeled/labels/{seed}.png", color=True)
    put_pictures(root, 5, "unlabeled/images/u.jpg", color=True)
    return ["--labeled-count", "2", "--test-count", "1"]


def published(root: Path) -> list[str]:
    for seed, part in enumerate(("train-label", "train-unlabel", "val", "test")):
        name = f"patient{seed:03d}_frame01_slice_1"
        put_pictures(root / part, seed, f"image/{name}.png", f"mask/{name}.npy")
    return []


def arrays_in_colour(root: Path) -> list[str]:
    for seed in range(4):
        put_pictures(root, seed, f"images/{seed}.npy", f"labels/{seed}.npy" if seed < 3 else None, color=True)
    return ["--labeled-count", "2", "--test-count", "1"]


def several_series(root: Path) -> list[str]:
    """Labelled series in folders of their own, and one folder with two unlabelled ones."""
    for seed in range(3):
        put_volumes(root, seed, f"images/p{seed}", f"labels/p{seed}.nii.gz")
    for uid in ("1.2.3", "1.2.4"):
        for file in write_dicom(root / "images/both", arrays(int(uid[-1]))[0], AFFINE, uid=uid):
            file.rename(file.with_name(f"{uid}_{file.name}"))
    return ["--labeled-count", "2", "--test-count", "1"]


LAYOUTS: list[tuple[Callable[[Path], list[str]], int, tuple[int, int, int]]] = [
    # what writes it, channels, and how many labelled, unlabelled and test cases come of it
    (acdc, 1, (1, 1, 1)),
    (decathlon, 1, (2, 2, 1)),
    (pairs, 1, (2, 1, 1)),
    (labeled_and_unlabeled, 3, (2, 1, 1)),
    (published, 1, (1, 1, 1)),
    (arrays_in_colour, 3, (2, 1, 1)),
    (several_series, 1, (2, 2, 1)),
]


def predicted(folder: Path, case: dict[str, str]) -> np.ndarray:
    """The case's prediction, which lies on the grid of its image and holds classes of the datalist alone."""
    found, header = nib.load(folder / "predictions" / f"{case['case']}_pred.nii.gz"), read_header(case["image"])
    assert found.shape == header.spatial_shape
    np.testing.assert_allclose(found.affine, header.affine, atol=1e-5)
    voxels = np.asanyarray(found.dataobj)
    assert set(np.unique(voxels)) <= {0, 1, 2}
    return voxels


@pytest.mark.parametrize(("write", "channels", "counts"), LAYOUTS, ids=[layout[0].__name__ for layout in LAYOUTS])
def test_a_layout_is_trained_on_evaluated_and_inferred(
    tmp_path: Path, write: Callable[[Path], list[str]], channels: int, counts: tuple[int, int, int]
) -> None:
    root = tmp_path / "data"
    main(["--dataset-dir", str(root), *NAMES, *write(root)])
    where: dict[str, Any] = {"dataset_dir": str(root), "output_dir": str(tmp_path / "out")}
    trained = run_here("training", "train.json", **where, **TWO_STEPS, in_channels=channels)
    terms = trained.get_parsed_content("train#trainer").state.output["terms"]._asdict()
    assert all(math.isfinite(value.item()) for value in terms.values()), terms
    cohort = trained.get_parsed_content("cohort")
    assert (len(cohort.training), len(cohort.unlabeled), len(cohort.test)) == counts
    run_here("evaluating", "train.json", "evaluate.json", **where, device="cpu")
    evaluated = predicted(tmp_path / "out", cohort.test[0])
    weights = {"checkpoint": str(tmp_path / "out" / "model.pt"), "device": "cpu"}
    place = {"dataset_dir": cohort.test[0]["image"], "output_dir": str(tmp_path / "new")}
    (case,) = run_here("inference", "inference.json", **place, **weights).get_parsed_content("cases")
    np.testing.assert_array_equal(predicted(tmp_path / "new", case), evaluated)


def test_a_decathlon_task_is_a_datalist_as_it_is(tmp_path: Path) -> None:
    decathlon(tmp_path)
    where = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    trained = run_here("training", "train.json", **where, **TWO_STEPS)
    assert len(trained.get_parsed_content("cohort").training) == 4
    with pytest.raises(SystemExit, match='evaluation_split is "test", of which none of 1 cases has a label'):
        run_here("evaluating", "train.json", "evaluate.json", **where, device="cpu")
    place = {"dataset_dir": str(tmp_path / "imagesTs"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    (case,) = run_here("inference", "inference.json", **place).get_parsed_content("cases")
    assert predicted(tmp_path / "out", case).shape == (32, 32, 4)


def test_both_series_of_a_folder_are_inferred_and_a_missing_slice_is_named(tmp_path: Path) -> None:
    several_series(tmp_path)
    main(["--dataset-dir", str(tmp_path), *NAMES])
    run_here("training", "train.json", dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"), **TWO_STEPS)
    place = {"dataset_dir": str(tmp_path / "images/both"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    cases = run_here("inference", "inference.json", **place).get_parsed_content("cases")
    assert [case["image"].rpartition("#")[2] for case in cases] == ["1.2.3", "1.2.4"]
    for case in cases:
        assert predicted(tmp_path / "out", case).shape == (32, 32, 4)
    files = sorted((tmp_path / "images/p1").iterdir(), key=lambda file: float(dcmread(file).ImagePositionPatient[2]))
    files[1].unlink()  # of four slices 6 mm apart
    place["dataset_dir"] = str(tmp_path / "images/p1")
    with pytest.raises(SystemExit, match=r"p1: expected slices 9 mm apart, found 12 mm between .*; add the missing"):
        run_here("inference", "inference.json", **place)
    (case,) = run_here("inference", "inference.json", **place, uneven_slices="accept").get_parsed_content("cases")
    assert predicted(tmp_path / "out", case).shape == (32, 32, 3)
