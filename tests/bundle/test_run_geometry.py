"""What a run takes its volumes to be: orientations, old records, and cases unlike those of the training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from support.bundle_runs import CONFIGS, TINY, Trained, make_volumes, refused, run_here

from vqseg_bundle.bundle import check_compatible, open_model_record, training_orientation
from vqseg_bundle.bundle.cohort.run_geometry import warn_of_geometry
from vqseg_bundle.data import VolumeHeader, check_orientation, run_orientation, training_geometry, unlike_training

CUBE = (4, 5, 6)


def write(path: Path, codes: str = "RAS", spacing: tuple[float, ...] = (1.0, 2.0, 3.0), shape=CUBE) -> str:
    """A volume of that shape and spacing along right, front and head, stored in another way, with an origin."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (1.0, -7.0, 5.0)
    image = nib.Nifti1Image(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine)
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image.as_reoriented(change), path)
    return str(path)


def header(spacing: tuple[float, ...], shape: tuple[int, ...] = CUBE) -> VolumeHeader:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = 1.0
    return VolumeHeader(shape, affine)


# ---- which orientation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "chosen"),
    [
        (["RAS", "RAS"], None),
        (["LPS", "LPS"], None),
        ([], None),
        (["LPS", "LPS", "RAS"], "LPS"),
        (["LPS", "RAS"], "RAS"),
        (["SRA", "LPS", "RAS", "SRA"], "SRA"),
    ],
)
def test_without_a_known_orientation_volumes_stay_as_stored_unless_they_differ(tmp_path: Path, stored, chosen):
    images = [write(tmp_path / f"{index}.nii.gz", codes) for index, codes in enumerate(stored)]
    assert run_orientation([*images, str(tmp_path / "gone.nii")], None) == chosen
    assert run_orientation(images, "LPI") == "LPI"


@pytest.mark.parametrize("orientation", ["ras", "RAL", "RA", "RASS", "RRS", 2, True])
def test_what_names_no_three_directions_is_refused(orientation: Any):
    with pytest.raises(ValueError, match=r'orientation must name the directions of three axes, such as "RAS"'):
        check_orientation(orientation)


def test_records_of_the_same_meaning_fit_and_others_do_not():
    record = {"network": {}, "labels": {}, "info": {}, "preprocessing": {"orientation": "RAS", "slice_axis": 2}}
    check_compatible(record, preprocessing={"orientation": "RAS", "slice_axis": "axial"})
    old = {**record, "preprocessing": {"slice_axis": 2}}
    check_compatible(old, preprocessing={"orientation": None, "slice_axis": 2})
    for wrong, message in (
        ({"orientation": "RAS", "slice_axis": 0}, "slice_axis: weights axial, configuration sagittal"),
        ({"orientation": "LPS", "slice_axis": 2}, "orientation: weights RAS, configuration LPS"),
        ({"slice_axis": 2}, "orientation: weights RAS, configuration None"),
    ):
        with pytest.raises(ValueError, match=message):
            check_compatible(record, preprocessing=wrong)
    with pytest.raises(ValueError, match="orientation: weights None, configuration RAS"):
        check_compatible(old, preprocessing={"orientation": "RAS", "slice_axis": 2})


# ---- models trained before ------------------------------------------------------------------------------------------


@pytest.fixture
def old(trained: Trained, tmp_path: Path) -> Path:
    """A trained model as version 0.6 left it."""
    folder = tmp_path / "old"
    shutil.copytree(trained.output_dir, folder)
    record = json.loads((folder / "model.json").read_text())
    del record["preprocessing"]["orientation"], record["info"]["training_volumes"]
    record["preprocessing"]["slice_axis"] = 2
    (folder / "model.json").write_text(json.dumps(record))
    return folder


def seen(checkpoint: Path, folder: Path, image: str, **overrides: Any) -> torch.Tensor:
    """What of an image reaches the network in an inference on a folder."""
    config = ConfigParser.load_config_file(CONFIGS / "inference.json")
    config |= {"checkpoint": str(checkpoint), "dataset_dir": str(folder), "output_dir": str(folder / "out")}
    return ConfigParser({**config, **overrides}).get_parsed_content("preprocessing")({"image": image})["image"][0]


def normalized(voxels: np.ndarray, size: int = 32) -> np.ndarray:
    """By hand: percentiles 0.5 and 99.5 to 0 and 1, zero mean and unit variance, padded in the plane."""
    low, high = np.percentile(voxels, [0.5, 99.5])
    scaled = np.clip((voxels - low) / (high - low), 0, 1)
    values = (scaled - scaled.mean()) / scaled.std()
    missing = [size - length for length in values.shape[:2]]
    return np.pad(values, [*((m // 2, m - m // 2) for m in missing), (0, 0)], mode="minimum")


def test_an_old_model_gets_volumes_as_they_are_stored(old: Path, tmp_path: Path):
    for codes in ("LPS", "SRA"):
        image = write(tmp_path / codes / "x.nii.gz", codes)
        stored = np.asarray(nib.load(image).dataobj, dtype=np.float64)
        found = seen(old / "model.pt", tmp_path / codes, image)
        np.testing.assert_allclose(found, normalized(stored), atol=1e-4)


def test_an_old_model_gets_volumes_of_several_orientations_in_that_of_most(old: Path, tmp_path: Path):
    images = [write(tmp_path / "in" / f"{index}.nii.gz", codes) for index, codes in enumerate(("LPS", "LPS", "SRA"))]
    expected = normalized(np.asarray(nib.load(images[0]).dataobj, dtype=np.float64))
    for image in images:
        np.testing.assert_allclose(seen(old / "model.pt", tmp_path / "in", image), expected, atol=1e-4)


def test_told_the_orientation_an_old_model_gets_all_in_it(old: Path, tmp_path: Path):
    image = write(tmp_path / "in" / "x.nii.gz", "PIR")
    ras = np.arange(np.prod(CUBE), dtype=np.float64).reshape(CUBE)
    found = seen(old / "model.pt", tmp_path / "in", image, orientation="RAS")
    np.testing.assert_allclose(found, normalized(ras), atol=1e-4)
    record = json.loads((old / "model.json").read_text())
    record["preprocessing"]["orientation"] = "RAS"
    (old / "model.json").write_text(json.dumps(record))
    np.testing.assert_allclose(seen(old / "model.pt", tmp_path / "in", image), normalized(ras), atol=1e-4)


def test_an_inference_with_an_old_model_warns_of_what_it_assumes(
    old: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    image, _ = make_volumes(3)
    write(tmp_path / "in" / "x.nii.gz", "LPS")
    nib.save(image, tmp_path / "in" / "y.nii.gz")
    keys = {"checkpoint": str(old / "model.pt"), "device": "cpu", "dataset_dir": str(tmp_path / "in")}
    run_here("run", "inference.json", **keys, output_dir=str(tmp_path / "out"))
    log = (tmp_path / "out" / "predictions" / "inference.log").read_text()
    assert "its model.json does not say how the training's volumes were oriented" in log
    assert "The volumes (1 LPS, 1 RAS) are all brought to RAS" in log
    assert '"orientation": "RAS" under "preprocessing" in model.json' in log
    assert "--orientation RAS" in caplog.text
    run_here("run", "inference.json", **keys, output_dir=str(tmp_path / "told"), orientation="RAS")
    assert "does not say" not in (tmp_path / "told" / "predictions" / "inference.log").read_text()


def test_a_homogeneous_folder_is_said_to_be_taken_as_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    record = {"checkpoint": "model.pt", "preprocessing": {"orientation": None, "slice_axis": 2}, "info": {}}
    warn_of_geometry([{"image": write(tmp_path / "x.nii.gz", "LPS")}], record, None)
    assert "The volumes (1 LPS) are taken as they are stored" in caplog.text
    caplog.clear()
    np.save(tmp_path / "x.npy", np.zeros(CUBE))
    warn_of_geometry([{"image": str(tmp_path / "x.npy")}], record, None)
    assert caplog.text == "", "an array has no orientation to be mistaken about"


def test_an_orientation_that_contradicts_the_record_is_refused(trained: Trained, tmp_path: Path):
    image, checkpoint = write(tmp_path / "x.nii.gz"), str(trained.output_dir / "model.pt")
    message = r"orientation: .*model\.pt was trained on volumes brought to RAS, as its model\.json says, got LPS"
    command = ("inference", "inference.json")
    refused(tmp_path / "out", message, *command, dataset_dir=image, checkpoint=checkpoint, orientation="LPS")
    with pytest.raises(SystemExit, match="orientation must name the directions of three axes"):
        open_model_record(checkpoint, None, ".", orientation="up")


def test_a_training_goes_on_as_it_began(trained: Trained, old: Path, tmp_path: Path):
    assert training_orientation(str(tmp_path / "none"), goes_on=True) == "RAS"
    assert training_orientation(str(old), goes_on=False) == "RAS"
    assert training_orientation(str(trained.output_dir), goes_on=True) == "RAS"
    assert training_orientation(str(old), goes_on=True) is None
    where = {"dataset_dir": str(trained.cohort.root), "output_dir": str(old)}
    before = (old / "model.json").read_text()
    parser = run_here("training", "train.json", **where, **TINY, resume=True)
    assert parser.get_parsed_content("preprocessing_record")["orientation"] is None
    assert parser.get_parsed_content("chosen_slice_axis") == 2
    assert (old / "model.json").read_text() == before


# ---- unlike the training --------------------------------------------------------------------------------------------


def test_the_geometry_of_a_training_is_that_of_the_body(tmp_path: Path):
    images = [
        write(tmp_path / "a.nii.gz", "SRA", (1.0, 2.0, 3.0)),
        write(tmp_path / "b.nii.gz", "LPS", (1.5, 2.0, 2.5)),
        write(tmp_path / "c.nii.gz", "RAS", (1.0, 2.0, 99.0), (4, 5, 1)),  # across a single slice it means nothing
        str(tmp_path / "gone.nii"),
    ]
    found = training_geometry(images)
    assert found == {"volumes": 3, "without_geometry": 0, "spacing_mm": [[1.0, 1.5], [2.0, 2.0], [2.5, 3.0]]}
    np.save(tmp_path / "d.npy", np.zeros(CUBE))
    arrays = training_geometry([str(tmp_path / "d.npy")])
    assert arrays == {"volumes": 1, "without_geometry": 1, "spacing_mm": [None, None, None]}


TRAINED = {"volumes": 9, "without_geometry": 0, "spacing_mm": [[1.0, 1.5], [1.0, 1.5], [5.0, 6.0]]}


@pytest.mark.parametrize(
    ("spacing", "shape", "found"),
    [
        ((1.0, 1.5, 6.0), CUBE, []),
        ((0.51, 2.9, 11.0), CUBE, []),
        ((0.49, 1.0, 5.0), CUBE, ["voxels of 0.49 mm from left to right, in training 1 to 1.5 mm"]),
        ((1.0, 3.1, 5.0), CUBE, ["voxels of 3.1 mm from back to front, in training 1 to 1.5 mm"]),
        ((1.0, 1.0, 13.0), CUBE, ["voxels of 13 mm from feet to head, in training 5 to 6 mm"]),
        ((1.0, 1.0, 99.0), (4, 5, 1), []),
        ((1.0, 1.0, 5.0), (1, 5, 6), ["a single sagittal slice, trained on axial ones"]),
        ((2.9, 1.4, 2.5), CUBE, []),
        ((1.5, 2.6, 2.5), CUBE, []),
        ((1.0, 4.0, 2.5), CUBE, ["coronal slices by its voxels, segmented in axial ones as trained"]),
    ],
)
def test_a_volume_unlike_the_training_is_told(spacing, shape, found):
    told = unlike_training(header(spacing, shape), TRAINED, "axial")
    assert told[: len(found)] == found
    assert bool(told) == bool(found)


def test_a_volume_coarser_the_other_way_is_no_news_where_the_training_had_such():
    isotropic = {**TRAINED, "spacing_mm": [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]}
    assert unlike_training(header((1.0, 1.9, 1.0)), isotropic, "axial") == []


def test_volumes_without_geometry_are_told_from_those_with_one():
    plain = VolumeHeader(CUBE, np.eye(4))
    (told,) = unlike_training(plain, TRAINED, "axial")
    assert told.startswith("no geometry")
    pictures = {"volumes": 3, "without_geometry": 3, "spacing_mm": [None, None, None]}
    assert unlike_training(plain, pictures, "axial") == []
    (told,) = unlike_training(header((9.0, 9.0, 9.0)), pictures, "axial")
    assert told.startswith("a geometry, in training none had one")


def test_an_inference_names_each_case_that_is_unlike_the_training_once(trained: Trained, tmp_path: Path):
    record = json.loads((trained.output_dir / "model.json").read_text())
    assert (record["preprocessing"]["orientation"], record["preprocessing"]["slice_axis"]) == ("RAS", "axial")
    assert record["info"]["training_volumes"]["spacing_mm"] == [[1.5, 1.5], [1.5, 1.5], [6.0, 6.0]]
    far = write(tmp_path / "in" / "far.nii.gz", "PIR", (1.5, 5.0, 20.0))
    write(tmp_path / "in" / "near.nii.gz", "LPS", (1.5, 1.5, 6.0))
    where = {"dataset_dir": str(tmp_path / "in"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    run_here("run", "inference.json", **where, checkpoint=str(trained.output_dir / "model.pt"))
    log = (tmp_path / "out" / "predictions" / "inference.log").read_text()
    line = (
        f"{far} is unlike the volumes of the training: voxels of 5 mm from back to front, in training 1.5 to 1.5 mm; "
        "voxels of 20 mm from feet to head, in training 6 to 6 mm"
    )
    assert log.count("is unlike the volumes of the training") == 1
    assert line in log
