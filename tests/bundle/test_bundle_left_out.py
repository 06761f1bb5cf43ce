"""Inference on a folder: what cannot be read is named and left out, and the rest is segmented."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless
from support.bundle_runs import Trained, make_volumes, refused, run_here
from support.format_parts import write_dicom

from vqseg_bundle.data import DataError, ReadableDataset

SHAPE = (32, 32, 3)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 300, SHAPE).astype(np.int16)


def write_inputs(folder: Path) -> list[Path]:
    """A sound NIfTI file and a sound series; the volumes at fault are returned."""
    image, _ = make_volumes(3)
    folder.mkdir()
    nib.save(image, folder / "good.nii.gz")
    write_dicom(folder / "series", noise(0))
    cut = folder / "cut.nii.gz"
    cut.write_bytes((folder / "good.nii.gz").read_bytes()[:-900])
    nan = folder / "nan.nii.gz"
    nib.save(nib.Nifti1Image(np.full((32, 32, 4), np.nan, np.float32), image.affine), nan)
    two = folder / "two.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((32, 32, 4, 2), np.float32), image.affine), two)
    empty = folder / "empty.nrrd"
    empty.write_bytes(b"")
    write_dicom(folder / "gap", noise(1))[0].write_bytes(b"")
    return [cut, nan, two, empty, folder / "gap"]


def cases_of(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix("_pred.nii.gz") for path in folder.glob("*_pred.nii.gz"))


def test_volumes_at_fault_are_named_counted_and_left_out(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    at_fault = write_inputs(tmp_path / "in")
    places = {"dataset_dir": str(tmp_path / "in"), "checkpoint": str(trained.output_dir / "model.pt"), "device": "cpu"}
    run_here("run", "inference.json", **places, output_dir=str(tmp_path / "out"))
    assert cases_of(tmp_path / "out" / "predictions") == ["good", "series"]
    written = (tmp_path / "out" / "predictions" / "inference.log").read_text()
    for path in at_fault:
        assert len([line for line in written.splitlines() if f"left out: {path}: " in line]) == 1
    assert "5 of 7 volumes were left out: cut, empty, gap, nan, two. The log says why" in written
    (tmp_path / "in" / "good.nii.gz").unlink()
    for file in list((tmp_path / "in" / "series").iterdir()):
        file.write_bytes(b"")
        file.rename(file.with_suffix(".dcm"))
    refused(tmp_path / "none", r"The data have 6 problems:\n- .*", "run", "inference.json", **places)


def test_what_fails_in_the_run_is_left_out_too(trained: Trained, tmp_path: Path):
    """Headers tell nothing of compressed pixels."""
    folder = tmp_path / "in"
    write_dicom(folder / "a", noise(0))
    for file in write_dicom(folder / "b", noise(1)):
        dataset = pydicom.dcmread(file)
        dataset.compress(RLELossless)
        dataset.save_as(file)
    file.write_bytes(file.read_bytes()[:-300])
    write_dicom(folder / "c", noise(2))
    places = {"checkpoint": str(trained.output_dir / "model.pt"), "device": "cpu", "data_check": "headers"}
    out = tmp_path / "out"
    run_here("run", "inference.json", **places, dataset_dir=str(folder), output_dir=str(out), num_workers=0)
    assert cases_of(out / "predictions") == ["a", "c"]
    written = (out / "predictions" / "inference.log").read_text()
    assert f"left out: {file}: the pixels cannot be decoded" in written
    assert "1 of 3 volumes were left out: b." in written
    message = "1 of 1 volumes were left out: b. The log says why"
    refused(tmp_path / "none", message, "run", "inference.json", **places, dataset_dir=str(folder / "b"))


def test_a_dataset_goes_on_and_shares_its_cases_among_workers():
    def read(case: Mapping[str, Any]) -> int:
        if case["image"] == "/bad":
            raise DataError("/bad: is empty; copy it again.")
        return len(case["image"])

    cases = [{"image": name} for name in ("/a", "/bad", "/abcd", "/ab")]
    assert list(ReadableDataset(cases, read)) == [2, 5, 3]

    from torch.utils.data import DataLoader

    loader: Iterator[Any] = iter(DataLoader(ReadableDataset(cases, read), batch_size=None, num_workers=2))
    assert sorted(loader) == [2, 3, 5]


def test_the_first_cause_is_what_the_log_says(caplog: pytest.LogCaptureFixture):
    def read(case: Mapping[str, Any]) -> None:
        raise ZeroDivisionError("by\nzero")

    assert list(ReadableDataset([{"image": "/a.nii#1.2"}], read)) == []
    assert "left out: /a.nii#1.2: ZeroDivisionError: by zero" in caplog.text
