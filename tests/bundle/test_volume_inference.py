"""Inference on folders: any sizes, whole volumes; what cannot be read is named and left out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.inferers import SliceInferer, SlidingWindowInferer
from pydicom.uid import RLELossless
from support.bundle_runs import ROOT, CohortFolder, Trained, as_arguments, command_here, make_volumes, refused, run_here
from support.data_parts import write_dicom

from vqseg_bundle.data import DataError, ReadableDataset
from vqseg_bundle.engines import CodebookInferer, window_batch_size, window_inferer
from vqseg_bundle.networks import VQSegNet


def _network(spatial_dims: int, num_embeddings: int | None = 32) -> VQSegNet:
    torch.manual_seed(0)
    network = VQSegNet(
        spatial_dims, 1, 3, channels=(4, 8), strides=(2,), num_embeddings=num_embeddings, embedding_dim=8
    )
    return network.eval()


def _inferer(spatial_dims: int) -> SlidingWindowInferer:
    if spatial_dims == 3:
        return SlidingWindowInferer(roi_size=(16, 16, 8), sw_batch_size=2, overlap=0.25, mode="gaussian")
    return SliceInferer(roi_size=(16, 16), sw_batch_size=3, spatial_dim=2, overlap=0.25, mode="gaussian")


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_2d_network_gets_slices_and_a_3d_one_windows(spatial_dims):
    inferer = window_inferer(spatial_dims, [16] * spatial_dims, batch_size=3, overlap=0.5).inferer
    assert type(inferer) is {2: SliceInferer, 3: SlidingWindowInferer}[spatial_dims]
    sizes: list[tuple[int, ...]] = []
    volume = torch.zeros(1, 1, 16, 24, 16)
    inferer(volume, lambda windows: sizes.append(tuple(windows.shape)) or windows)
    # half a window further each: two of them; of 16 slices each has two
    assert sum(size[0] for size in sizes) == {2: 32, 3: 2}[spatial_dims]
    assert {size[2:] for size in sizes} == {(16,) * spatial_dims}
    assert max(size[0] for size in sizes) == {2: 3, 3: 2}[spatial_dims]


@pytest.mark.parametrize("num_embeddings", [32, None])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_gives_what_the_inner_inferer_gives(spatial_dims, num_embeddings):
    network, inferer = _network(spatial_dims, num_embeddings), _inferer(spatial_dims)
    volume = torch.randn(1, 1, 24, 20, 10)
    with torch.inference_mode():
        assert torch.equal(CodebookInferer(inferer)(volume, network), inferer(volume, network))


def test_projects_the_codebook_once_a_volume(monkeypatch):
    network, calls = _network(2), []
    project = network.quantizer.codebook.forward
    monkeypatch.setattr(network.quantizer.codebook, "forward", lambda: calls.append(1) or project())
    volume = torch.randn(1, 1, 24, 20, 10)
    with torch.inference_mode():
        CodebookInferer(_inferer(2))(volume, network)
        assert len(calls) == 1
        _inferer(2)(volume, network)
    assert len(calls) > 2


def test_a_scripted_network_takes_the_codebook_too():
    network, volume = _network(2), torch.randn(1, 1, 16, 16, 5)
    with torch.inference_mode():
        found = CodebookInferer(_inferer(2))(volume, torch.jit.script(network))
        torch.testing.assert_close(found, _inferer(2)(volume, network))


def test_any_other_network_is_run_as_before():
    volume = torch.randn(1, 1, 16, 16, 5)
    torch.testing.assert_close(CodebookInferer(_inferer(2))(volume, lambda image: 2.0 * image), 2.0 * volume)


def test_window_batch_by_hand():
    # 12 float32 maps of 16 channels of 100 x 100 voxels are 7.68 MB
    assert window_batch_size([100, 100], 16, "cpu", memory_gb=0.08) == 10
    assert window_batch_size([100, 100], 16, "cpu", memory_gb=1e-6) == 1
    assert window_batch_size([100, 100], 16, "cpu") == 17
    assert window_batch_size([96, 96, 16], 16, "cpu") == 1


@pytest.mark.parametrize("memory_gb", [0.0, -1.0, float("nan")])
def test_refuses_a_budget_that_is_not_positive(memory_gb):
    with pytest.raises(ValueError, match="inference_memory_gb must be positive or None, got"):
        window_batch_size([100, 100], 16, "cpu", memory_gb)


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
    one = tmp_path / "one"
    run_here("run", "inference.json", **places, dataset_dir=str(folder / "a"), output_dir=str(one), num_workers=0)
    assert " 1 volume, predictions go to" in (one / "predictions" / "inference.log").read_text()
    message = "1 of 1 volumes were left out: b. The log says why"
    refused(tmp_path / "none", message, "run", "inference.json", **places, dataset_dir=str(folder / "b"))


def test_a_name_forges_no_line_of_the_log(trained: Trained, tmp_path: Path):
    for name in ("a", "b\n00:00:00 INFO all is well"):
        nib.save(make_volumes(9)[0], tmp_path / f"{name}.nii.gz")
    places = {"checkpoint": str(trained.output_dir / "model.pt"), "device": "cpu"}
    run_here("run", "inference.json", **places, dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"))
    lines = (tmp_path / "out" / "predictions" / "inference.log").read_text().splitlines()
    assert [line for line in lines if line.startswith("00:00:00 INFO")] == []
    assert [line for line in lines if r"1 of 2 volumes were left out: b\n00:00:00 INFO all is well. The log" in line]


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


@pytest.fixture(scope="module")
def folder(shared_cohort: CohortFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test volumes in nested folders, one of them unpacked, beside a file that is none."""
    root = tmp_path_factory.mktemp("volumes")
    (root / "a").mkdir()
    (root / "b" / "deep").mkdir(parents=True)
    (root / "readme.txt").write_text("not a volume")
    shutil.copy(shared_cohort.root / "images" / "turned.nii.gz", root / "b" / "deep")
    nib.save(nib.load(shared_cohort.root / "images" / "case_5.nii.gz"), root / "a" / "case_5.nii")
    return root


@pytest.fixture(scope="module")
def inferred(trained: Trained, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """An inference from a working directory that is not the bundle's, with a relative output_dir."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    places = {"bundle_root": ROOT, "dataset_dir": folder, "output_dir": "found", "device": "cpu"}
    places["checkpoint"] = trained.output_dir / "model.pt"
    config = str(ROOT / "configs" / "inference.json")
    result = command_here("run", "--config_file", config, *as_arguments(places), cwd=elsewhere)
    assert result.returncode == 0, result.stdout + result.stderr
    return Trained(trained.cohort, elsewhere, result)


def test_inference_equals_the_evaluation_and_needs_no_datalist(evaluated: Trained, inferred: Trained) -> None:
    predictions = inferred.output_dir / "found" / "predictions"
    expected = evaluated.output_dir / "predictions"
    for name in ("case_5", "turned"):
        ours, theirs = nib.load(predictions / f"{name}_pred.nii.gz"), nib.load(expected / f"{name}_pred.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj))
        np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)


def test_inference_writes_predictions_sheet_and_log_into_output_dir_alone(inferred: Trained, folder: Path) -> None:
    assert [path.name for path in inferred.output_dir.iterdir()] == ["found"]
    files = sorted(path.name for path in (inferred.output_dir / "found").rglob("*") if path.is_file())
    assert [name for name in files if ".nii" not in name] == [".inference.lock", "contact_sheet.html", "inference.log"]
    sheet = (inferred.output_dir / "found" / "predictions" / "contact_sheet.html").read_text(encoding="utf-8")
    assert sheet.count('<th scope="row">') == len(files) - 3 == 2
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "readme.txt"]


def test_inference_into_the_input_folder_does_not_take_its_own_results_for_images(
    trained: Trained, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "in")
    volumes = {"dataset_dir": str(tmp_path / "in"), "output_dir": str(tmp_path / "in" / "out"), "device": "cpu"}
    for _ in range(2):
        run_here("run", "inference.json", **volumes, checkpoint=str(trained.output_dir / "model.pt"))
        found = {path.name for path in (tmp_path / "in" / "out" / "predictions").glob("*.nii.gz")}
        assert found == {"case_5_pred.nii.gz", "turned_pred.nii.gz"}


def test_two_images_of_one_name_keep_a_prediction_each(trained: Trained, tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        (tmp_path / "in" / patient).mkdir(parents=True)
        shutil.copy(trained.cohort.root / "images" / "case_5.nii.gz", tmp_path / "in" / patient / "image.nii.gz")
    volumes = {"dataset_dir": str(tmp_path / "in"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    run_here("run", "inference.json", **volumes, checkpoint=str(trained.output_dir / "model.pt"))
    assert len(list((tmp_path / "out" / "predictions").glob("*.nii.gz"))) == 2
