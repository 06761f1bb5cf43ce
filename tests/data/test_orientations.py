"""One volume, however its axes are stored and turned and in whichever format, is segmented the same."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from support.bundle_runs import TINY, CohortFolder, make_volumes, run_here
from support.data_parts import write_volume

from vqseg_bundle.data import OrientVolumed, VolumeHeader, find_orientation, read_header
from vqseg_bundle.data.geometry.orientation import axis_directions

#: every way to store three axes: 6 orders and 8 directions
STORAGES = [
    "".join(codes) for order in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*order)
]


SUFFIXES = {"nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha", "dicom": ""}


KEYS: dict[str, Any] = {"device": "cpu", "data_check": "headers", "dicom_seg": False}


SIZE, SPACING = (22, 26, 5), (1.2, 1.5, 4.0)


class Stored(NamedTuple):
    """A volume in all its storages, and their predictions.

    Attributes:
        sources: by name of the case.
        predictions: the folder of what inference wrote.
    """

    sources: dict[str, Path]
    predictions: Path

    def prediction(self, name: str) -> nib.Nifti1Image:
        """What was predicted for a case."""
        return nib.load(self.predictions / f"{name}_pred.nii.gz")


def oblique() -> np.ndarray:
    """Turned about all three axes by less than 25 degrees, so that the axes stay nearest to R, A and S."""
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(0.2, 0.3, -0.25) @ np.diag(SPACING)
    affine[:3, 3] = (12.5, -45.25, 78.75)
    return affine


def reoriented(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    return image.as_reoriented(change)


def lopsided(seed: int) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """A shell and a core as elsewhere, and a bright corner at the right, in front and above that none of them has."""
    image, label = make_volumes(seed, SIZE, oblique())
    values = np.round(np.asarray(image.dataobj)).astype(np.int16)
    values[16:, 20:, 3:] += 150
    return nib.Nifti1Image(values, oblique()), label


def train(root: Path, image_codes: str, label_codes: str) -> Path:
    """A training of seconds that already tells the shell from the background, on volumes stored in that way."""
    cohort = CohortFolder(root)
    for seed, split in enumerate(("training", "training", "unlabeled", "validation", "test")):
        image, label = lopsided(seed)
        labeled = split != "unlabeled"
        cohort.add(
            split, f"case_{seed}", reoriented(image, image_codes), reoriented(label, label_codes) if labeled else None
        )
    cohort.save()
    places = {"dataset_dir": str(root), "output_dir": str(root / "out")}
    run_here("training", "train.json", **places, **TINY | {"max_iterations": 12, "learning_rate": 0.01})
    return root / "out" / "model.pt"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on RAS volumes."""
    return train(tmp_path_factory.mktemp("ras"), "RAS", "RAS")


@pytest.fixture(scope="module")
def stored(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """All storages of one of the volumes, of its middle axial and of its middle sagittal slice, in one inference."""
    root = tmp_path_factory.mktemp("stored")
    image, _ = lopsided(0)
    sources = {}
    for codes in STORAGES:
        turned = reoriented(image, codes)
        for kind, suffix in SUFFIXES.items():
            name = f"{kind}_{codes}"
            sources[name] = write_volume(root / "in" / f"{name}{suffix}", np.asarray(turned.dataobj), turned.affine)
        for plane, part in (("axial", image.slicer[:, :, 2:3]), ("sagittal", image.slicer[10:11])):
            name, single = f"{plane}_{codes}", reoriented(part, codes)
            sources[name] = root / "in" / f"{name}.nii.gz"
            nib.save(single, sources[name])
    places = {"dataset_dir": str(root / "in"), "output_dir": str(root / "out")}
    run_here("run", "inference.json", **places, checkpoint=str(model), **KEYS)
    return Stored(sources, root / "out" / "predictions")


def test_the_prediction_tells_left_from_right(stored: Stored):
    """Without that, the tests below would show nothing."""
    found = np.asarray(stored.prediction("nifti_RAS").dataobj)
    assert len(np.unique(found)) > 1
    for axis in range(3):
        assert (found != np.flip(found, axis)).any(), axis
    for plane, shape in (("axial", (22, 26, 1)), ("sagittal", (1, 26, 5))):
        assert stored.prediction(f"{plane}_RAS").shape == shape
        assert len(np.unique(np.asarray(stored.prediction(f"{plane}_RAS").dataobj))) > 1


@pytest.mark.parametrize("kind", [*SUFFIXES, "axial", "sagittal"])
def test_the_same_voxels_get_the_same_classes_however_they_are_stored(stored: Stored, kind: str):
    first = stored.prediction(f"{'nifti' if kind in SUFFIXES else kind}_RAS")
    expected = np.asarray(first.dataobj)
    for codes in STORAGES:
        found = nib.as_closest_canonical(stored.prediction(f"{kind}_{codes}"))
        np.testing.assert_array_equal(np.asarray(found.dataobj), expected, err_msg=codes)
        np.testing.assert_allclose(found.affine, first.affine, rtol=0, atol=1e-3, err_msg=codes)


def test_an_array_which_has_no_geometry_is_taken_for_ras(model: Path, stored: Stored, tmp_path: Path):
    path = write_volume(tmp_path / "array.npy", np.asarray(lopsided(0)[0].dataobj))
    run_here("run", "inference.json", dataset_dir=str(path), output_dir=str(tmp_path), checkpoint=str(model), **KEYS)
    found = nib.load(tmp_path / "predictions" / "array_pred.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(stored.prediction("nifti_RAS").dataobj))


def test_a_training_and_its_evaluation_are_the_same_however_images_and_labels_are_stored(model: Path, tmp_path: Path):
    other = train(tmp_path, "SLP", "PIR")
    weights, others = (torch.load(path, weights_only=True) for path in (model, other))
    assert all(torch.equal(value, others[key]) for key, value in weights.items())
    figures = []
    for path in (model, other):
        places = {"dataset_dir": str(path.parents[1]), "output_dir": str(path.parent), "device": "cpu"}
        run_here("evaluating", "train.json", "evaluate.json", **places)
        with (path.parent / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        figures.append([[float(row[name]) for name in ("dice", "jaccard", "hd95_mm", "asd_mm")] for row in rows])
    # a header's rounding may show in the sixth digit of a distance
    np.testing.assert_allclose(figures[1], figures[0], rtol=1e-5)
    prediction = nib.as_closest_canonical(nib.load(other.parent / "predictions" / "case_4_pred.nii.gz"))
    assert prediction.shape == SIZE


@pytest.mark.parametrize("kind", [*SUFFIXES, "axial", "sagittal"])
def test_a_prediction_lies_on_its_source_in_nibabel(stored: Stored, kind: str):
    for codes in STORAGES:
        source, found = stored.sources[f"{kind}_{codes}"], stored.prediction(f"{kind}_{codes}")
        header = read_header(str(source))
        assert found.shape == header.spatial_shape
        np.testing.assert_allclose(found.affine, header.affine, rtol=0, atol=1e-4, err_msg=codes)
        if kind not in ("nrrd", "mha", "dicom"):
            np.testing.assert_allclose(found.affine, nib.load(source).affine, rtol=0, atol=1e-5, err_msg=codes)


@pytest.mark.parametrize("kind", ["nifti", "nrrd", "mha", "dicom"])
def test_a_prediction_lies_on_its_source_in_simpleitk(stored: Stored, kind: str):
    """Where the points of the source's corner voxels lie in the prediction."""
    for codes in STORAGES:
        name = f"{kind}_{codes}"
        source, found = _read(stored.sources[name]), sitk.ReadImage(str(stored.predictions / f"{name}_pred.nii.gz"))
        assert source.GetSize() == found.GetSize(), codes
        for corner in itertools.product(*((0, length - 1) for length in source.GetSize())):
            there = found.TransformPhysicalPointToContinuousIndex(source.TransformIndexToPhysicalPoint(corner))
            np.testing.assert_allclose(there, corner, rtol=0, atol=1e-3, err_msg=codes)


def _read(source: Path) -> sitk.Image:
    if source.is_file():
        return sitk.ReadImage(str(source))
    return sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(source)))


EIGHTH = math.pi / 4


#: angles about feet-head, back-front and left-right; at 45 degrees several axes are equally near
TURNS = {
    "none": (0.0, 0.0, 0.0),
    "tilted": (0.2, 0.3, -0.25),
    "z": (EIGHTH, 0.0, 0.0),
    "x": (0.0, 0.0, EIGHTH),
    "zy": (EIGHTH, EIGHTH, 0.0),
    "zyx": (EIGHTH, EIGHTH, EIGHTH),
    "diagonal": (EIGHTH, math.atan(math.sqrt(0.5)), 0.0),
}


def affine(turn: tuple[float, float, float]) -> np.ndarray:
    """With a header's accuracy."""
    matrix = np.eye(4)
    matrix[:3, :3] = nib.eulerangles.euler2mat(*turn) @ np.diag([0.7, 0.7, 3.0])
    matrix[:3, 3] = (10.1, -20.2, 30.3)
    return matrix.astype(np.float32).astype(np.float64)


def storages(voxels: np.ndarray, matrix: np.ndarray) -> Iterator[MetaTensor]:
    """The same volume with its axes in all orders and directions."""
    for order, senses in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        change = np.stack([order, senses], axis=1).astype(float)
        array = nib.orientations.apply_orientation(voxels, change).copy()
        moved = matrix @ nib.orientations.inv_ornt_aff(change, voxels.shape)
        yield MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(moved))


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 1)])
@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_all_storages_come_to_one_volume_and_back_exactly(turn: tuple[float, float, float], shape: tuple[int, ...]):
    transform = OrientVolumed("image", "RAS")
    first = None
    for stored in storages(np.arange(np.prod(shape)).reshape(shape), affine(turn)):
        data = transform({"image": stored})
        image = data["image"]
        first = image if first is None else first
        assert torch.equal(image.as_tensor(), first.as_tensor())
        torch.testing.assert_close(image.affine, first.affine, rtol=0, atol=1e-6)
        assert torch.linalg.det(image.affine) > 0, "mirrored"
        data["pred"] = MetaTensor(image.as_tensor() * 2)
        found = Invertd("pred", Compose([transform]), orig_keys="image", nearest_interp=False)(data)["pred"]
        assert torch.equal(found.as_tensor(), stored.as_tensor() * 2)
        torch.testing.assert_close(found.affine, stored.affine, rtol=0, atol=1e-9)


def test_no_turned_volume_is_mirrored_and_no_way_to_store_it_lies_nearer():
    for turn in np.random.default_rng(0).uniform(-math.pi, math.pi, (200, 3)):
        matrix = affine(tuple(turn))
        found = axis_directions(matrix)
        chosen = np.zeros((3, 3))
        chosen[found[:, 0].astype(int), range(3)] = found[:, 1]
        assert np.linalg.det(chosen) == pytest.approx(1.0)
        # the nearest of the 24 unmirrored ways is nowhere more than 62.8 degrees away
        cosines = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
        assert np.trace(chosen.T @ cosines) >= 1 + 2 * math.cos(math.radians(62.8)) - 1e-3


def test_volumes_turned_by_less_are_as_nibabel_has_them():
    for turn in np.random.default_rng(0).uniform(-0.3, 0.3, (50, 3)):
        for stored in itertools.islice(storages(np.zeros((2, 3, 4)), affine(tuple(turn))), 0, 48, 5):
            header = VolumeHeader((2, 3, 4), stored.affine.numpy())
            assert find_orientation(header) == "".join(nib.aff2axcodes(header.affine))


def test_a_volume_that_lies_so_already_stays_and_keys_may_be_missing():
    volume = MetaTensor(torch.rand(1, 2, 3, 4), affine=torch.eye(4))
    assert torch.equal(OrientVolumed("image", "RAS")({"image": volume})["image"], volume)
    assert OrientVolumed("label", "RAS", allow_missing_keys=True)({"image": volume}) == {"image": volume}
    with pytest.raises(ValueError, match="orientation must name the directions of three axes"):
        OrientVolumed("image", "RAX")
