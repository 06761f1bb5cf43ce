"""Training, segmenting and predicting from Python give what the commands give."""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandLambda
from monai.utils import set_determinism
from support.bundle_runs import LABELS, Trained, make_volumes
from support.data_parts import hounsfield, write_dicom
from torch.backends import cudnn

import vqseg_bundle
from vqseg_bundle import load, segment, train
from vqseg_bundle.bundle import prediction_folder, python_interface


def _nifti(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    path = folder / "v.nii.gz"
    nib.save(make_volumes(9)[0], path)
    return path, path, {}


def _nibabel(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    path, _, _ = _nifti(folder)
    return nib.load(path), path, {}


def _array(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    path, _, _ = _nifti(folder)
    image = nib.load(path)
    return np.asarray(image.dataobj), path, {"spacing": image.header.get_zooms()[:3]}


def _dicom(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    write_dicom(folder / "series", hounsfield((32, 28, 4)))
    return folder / "series", folder / "series", {}


@pytest.mark.parametrize("given", [_nifti, _nibabel, _array, _dicom])
def test_a_predictor_gives_what_the_command_writes(given: Any, trained: Trained, tmp_path: Path, caplog: Any) -> None:
    volume, path, options = given(tmp_path)
    state = list(sys.path), list(logging.getLogger().handlers)
    predictor = load(trained.output_dir, device="cpu")
    prediction = predictor(volume, probabilities=given is _array, **options)
    assert (list(sys.path), list(logging.getLogger().handlers)) == state
    assert [record.name for record in caplog.records if record.name.startswith("monai.")] == []
    out = segment(path, tmp_path / "out", checkpoint=str(trained.output_dir / "model.pt"), device="cpu")
    assert prediction_folder(tmp_path / "out", "inference") == str(out)  # where the next volume's goes
    (written,) = [nib.load(file) for file in out.glob("*_pred.nii.gz")]
    np.testing.assert_array_equal(prediction.classes, np.asarray(written.dataobj))
    np.testing.assert_array_equal(prediction.affine, written.affine)
    assert prediction.labels == {int(index): name for index, name in LABELS.items()}
    if given is _array:
        assert prediction.probabilities.shape == (3, *prediction.classes.shape)
        np.testing.assert_allclose(prediction.probabilities.sum(axis=0), 1.0, atol=2e-3)
        assert (prediction.probabilities.argmax(axis=0) == prediction.classes).mean() > 0.99
    else:
        assert prediction.probabilities is None


def test_a_prediction_lies_in_mm_whatever_the_files_unit(trained: Trained, tmp_path: Path) -> None:
    image, _, _ = _nibabel(tmp_path)
    microns = nib.Nifti1Image(np.asarray(image.dataobj), np.diag([1000.0, 1000.0, 1000.0, 1.0]) @ image.affine)
    microns.header.set_xyzt_units("micron")
    nib.save(microns, tmp_path / "microns.nii.gz")
    predictor = load(trained.output_dir, device="cpu")
    expected = predictor(image)
    for volume in (microns, tmp_path / "microns.nii.gz"):
        prediction = predictor(volume)
        np.testing.assert_allclose(prediction.affine, image.affine, rtol=1e-6)
        np.testing.assert_array_equal(prediction.classes, expected.classes)


def test_an_image_of_two_axes_is_predicted_as_one_slice(trained: Trained, tmp_path: Path) -> None:
    image = make_volumes(9)[0]
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., 2], image.affine), tmp_path / "flat.nii.gz")
    prediction = load(trained.output_dir, device="cpu")(tmp_path / "flat.nii.gz", probabilities=True)
    assert prediction.classes.shape == (32, 32, 1)
    assert prediction.probabilities.shape == (3, 32, 32, 1)
    assert prediction.probabilities.dtype == np.float32


def test_labels_name_the_values_of_class_maps_in_the_order_of_probabilities(trained: Trained, tmp_path: Path) -> None:
    record = json.loads((trained.output_dir / "model.json").read_text())
    record |= {"label_values": {"0": 0, "1": 7, "2": 1}, "postprocessing": {"largest_component": []}}
    (tmp_path / "model.json").write_text(json.dumps(record))
    shutil.copy(trained.output_dir / "model.pt", tmp_path)
    predictor = load(tmp_path, device="cpu")
    assert predictor.labels == {0: "background", 7: "shell", 1: "core"}
    prediction = predictor(make_volumes(9)[0], probabilities=True)
    assert prediction.labels == predictor.labels
    assert len(np.unique(prediction.classes)) > 1
    named = np.array(list(prediction.labels))[prediction.probabilities.argmax(axis=0)]
    assert (named == prediction.classes).mean() > 0.99


def test_wrong_input_is_an_error_of_python(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there are no trained weights; name the output_dir"):
        load(tmp_path)
    predictor = load(trained.output_dir / "model.pt", device="cpu")
    with pytest.raises(ValueError, match=r"expected an array \(X, Y, Z\) with its spacing, .* and spacing None"):
        predictor(np.zeros((4, 4, 4)))
    with pytest.raises(ValueError, match="expected a path, an image of nibabel or an array, found int"):
        predictor(3)
    with pytest.raises(
        ValueError,
        match=r"overlays: expected files, here or in .*, found none called supervise\.json\. Did you mean ",
    ):
        train(tmp_path / "none", overlays="supervise.json")
    (tmp_path / "own.json").write_text('{"lambda_u": 0.5,}')
    with pytest.raises(ValueError, match=r"own\.json, line 1, column \d+: .*; mend it\."):
        train(tmp_path / "none", overlays=tmp_path / "own.json")
    with pytest.raises(ValueError, match=r"missing\.nii\.gz"):
        predictor(tmp_path / "missing.nii.gz")
    with pytest.raises(AttributeError, match="has no attribute 'predict'"):
        _ = vqseg_bundle.predict


@pytest.mark.parametrize(
    "spacing", [(1, 1, 0), (1, float("nan"), 1), (float("inf"), 1, 1), (1, -2, 1), (1, 1), 1, "abc", (1, None, 1)]
)
def test_an_array_needs_three_finite_spacings_above_zero(spacing: Any, trained: Trained) -> None:
    message = (
        "expected an array (X, Y, Z) with its spacing, three finite numbers above 0 in mm, found shape (8, 8, 4) and "
        f"spacing {spacing}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load(trained.output_dir, device="cpu")(np.zeros((8, 8, 4)), spacing=spacing)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_stopped_by_a_signal_stops_a_loop_over_seeds(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped:
        def run(self) -> None:
            raise SystemExit(128 + number)

    monkeypatch.setattr(python_interface, "create_workflow", lambda **_: Stopped())
    with pytest.raises(KeyboardInterrupt, match=f"^stopped by {number.name}$"):
        train(dataset_dir="DIR")


@pytest.mark.parametrize("name", ["%50", "$f", "@f"])
def test_paths_that_would_be_evaluated_are_refused(name: str, trained: Trained, tmp_path: Path) -> None:
    message = rf"expected a path, found '{re.escape(name)}', which MONAI would evaluate"
    with pytest.raises(ValueError, match=f"--dataset_dir: {message}"):
        segment(name, trained.output_dir)
    with pytest.raises(ValueError, match=f"--output_dir: {message}"):
        train(name, dataset_dir=tmp_path)


def test_an_end_with_another_code_is_a_fault_of_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def run(self) -> None:
            raise SystemExit("seed: expected a number, found x.")

    monkeypatch.setattr(python_interface, "create_workflow", lambda **_: Refused())
    with pytest.raises(ValueError, match=r"^seed: expected a number, found x\.$"):
        train(dataset_dir="DIR")


def test_a_predictor_finds_its_weights_from_another_folder(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.output_dir.parent)
    predictor = load(trained.output_dir.name, device="cpu")
    monkeypatch.chdir(tmp_path)
    assert predictor.checkpoint == trained.output_dir / "model.pt"
    assert predictor(make_volumes(9)[0]).classes.shape == make_volumes(9)[0].shape


class Changing:
    """A workflow that changes what belongs to the whole process."""

    parser = None

    def __init__(self, ends: bool) -> None:
        self.ends = ends

    def run(self) -> None:
        torch.set_num_threads(1)
        set_determinism(0)
        if not self.ends:
            raise SystemExit("refused")


@pytest.mark.parametrize("ends", [True, False])
def test_threads_and_determinism_are_the_callers_again(ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_interface, "create_workflow", lambda **_: Changing(ends))
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark
    try:
        torch.set_num_threads(2)
        cudnn.deterministic, cudnn.benchmark = False, True
        with nullcontext() if ends else pytest.raises(ValueError, match=r"^refused$"):
            train(dataset_dir="DIR")
        assert (torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark) == (2, False, True)
    finally:
        set_determinism(None)
        torch.set_num_threads(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]


@pytest.mark.parametrize("ends", [True, False])
def test_random_generators_go_on_where_the_caller_left_them(ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def draws() -> list[float]:
        compose = Compose([RandLambda(prob=0.5)])
        return [random.random(), np.random.rand(), float(torch.rand(())), compose.R.rand()]

    monkeypatch.setattr(python_interface, "create_workflow", lambda **_: Changing(ends))
    found = []
    try:
        for trains in (False, True):
            set_determinism(7)
            if trains:
                with nullcontext() if ends else pytest.raises(ValueError, match=r"^refused$"):
                    train(dataset_dir="DIR")
            found.append(draws())
    finally:
        set_determinism(None)
    assert found[0] == found[1]
