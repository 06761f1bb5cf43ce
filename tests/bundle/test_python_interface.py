"""Training, segmenting and predicting from Python give what the commands give."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support.bundle_runs import LABELS, Trained, make_volumes
from support.data_parts import hounsfield, write_dicom

import vqseg_bundle
from vqseg_bundle import load, segment
from vqseg_bundle.bundle import prediction_folder


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


def test_wrong_input_is_an_error_of_python(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there are no trained weights; name the output_dir"):
        load(tmp_path)
    predictor = load(trained.output_dir / "model.pt", device="cpu")
    with pytest.raises(ValueError, match=r"expected an array \(X, Y, Z\) with its spacing, .* and spacing None"):
        predictor(np.zeros((4, 4, 4)))
    with pytest.raises(ValueError, match=r"missing\.nii\.gz"):
        predictor(tmp_path / "missing.nii.gz")
    with pytest.raises(AttributeError, match="has no attribute 'predict'"):
        _ = vqseg_bundle.predict
