"""DICOM SEG: what is written lies where the voxels lie, names what they are, and passes a conformance checker."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import SegmentationStorage
from support.bundle_runs import Trained, refused, run_here
from support.seg_parts import (
    COLUMNS,
    LABELS,
    OBLIQUE,
    ROWS,
    SLICES,
    STRAIGHT,
    class_map,
    places,
    places_in_file,
    prediction,
    write_series,
)

from vqseg_bundle import __version__
from vqseg_bundle.data import DataError, SaveDicomSegd, write_dicom_seg


@pytest.mark.parametrize("orientation", [STRAIGHT, OBLIQUE])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axes", ["as the series", "turned"])
def test_the_foreground_lies_where_it_lay(
    tmp_path: Path, orientation: Sequence[float], reverse: bool, axes: str
) -> None:
    files, affine = write_series(tmp_path / "series", orientation, reverse)
    classes = class_map()
    expected = places(classes, affine)
    if axes == "turned":
        turns = np.array([[2, -1], [0, 1], [1, -1]])
        affine = affine @ nib.orientations.inv_ornt_aff(turns, classes.shape)
        classes = nib.orientations.apply_orientation(classes, turns)
        assert places(classes, affine) == expected
    write_dicom_seg(classes, affine, files, LABELS, tmp_path / "seg.dcm")
    assert places_in_file(tmp_path / "seg.dcm") == expected


def test_highdicom_reads_the_same_volume(tmp_path: Path) -> None:
    files, affine = write_series(tmp_path / "series", OBLIQUE)
    write_dicom_seg(class_map(), affine, files, LABELS, tmp_path / "seg.dcm")
    volume = hd.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    assert places(volume.array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine) == places(class_map(), affine)


def test_segments_patient_study_and_sources_are_named(tmp_path: Path) -> None:
    files, affine = write_series(tmp_path / "series", reverse=True)
    chosen = {"lung": ["39607008", "SCT", "Lung"]}
    chosen["lesion"] = {
        "category": ["49755003", "SCT", "Morphologically Abnormal Structure"],
        "type": ["4147007", "SCT", "Mass"],
    }
    write_dicom_seg(class_map(), affine, files, LABELS, tmp_path / "seg.dcm", chosen)
    dataset, source = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(files[0])
    assert (dataset.SOPClassUID, dataset.SegmentationType) == (SegmentationStorage, "BINARY")
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"):
        assert dataset[name].value == source[name].value
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    assert dataset.SoftwareVersions == __version__
    segments = dataset.SegmentSequence
    assert [segment.SegmentLabel for segment in segments] == ["lung", "lesion", "absent one"]
    types = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in segments]
    assert [code.CodeValue for code in types] == ["39607008", "4147007", "91723000"]
    categories = [segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue for segment in segments]
    assert categories == ["91723000", "49755003", "91723000"]
    algorithm = segments[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("vqseg_bundle", __version__)
    referenced = {
        item.ReferencedSOPInstanceUID for item in dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referenced == {pydicom.dcmread(file).SOPInstanceUID for file in files}


def test_frames_are_those_with_foreground(tmp_path: Path) -> None:
    files, affine = write_series(tmp_path / "series")
    write_dicom_seg(class_map(), affine, files, LABELS, tmp_path / "seg.dcm")
    assert pydicom.dcmread(tmp_path / "seg.dcm").NumberOfFrames == 4 + 1


def test_background_alone_is_written_as_empty_segments(tmp_path: Path) -> None:
    files, affine = write_series(tmp_path / "series")
    write_dicom_seg(np.zeros((COLUMNS, ROWS, SLICES)), affine, files, LABELS, tmp_path / "seg.dcm")
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    assert len(dataset.SegmentSequence) == dataset.NumberOfFrames == 3
    assert not dataset.pixel_array.any()


def test_a_single_slice_is_a_series(tmp_path: Path) -> None:
    files, affine = write_series(tmp_path / "series", OBLIQUE, count=1)
    classes = class_map()[:, :, -2:-1]
    write_dicom_seg(classes, affine, files, LABELS, tmp_path / "seg.dcm")
    assert places_in_file(tmp_path / "seg.dcm") == places(classes, affine)


def test_another_grid_and_unusable_sources_are_refused(tmp_path: Path) -> None:
    files, affine = write_series(tmp_path / "series")
    target = tmp_path / "seg.dcm"
    with pytest.raises(DataError, match=r"must lie on the grid of the series, \(9, 7, 5\) voxels; found \(9, 7, 4\)"):
        write_dicom_seg(class_map()[..., 1:], affine, files, LABELS, target)
    shifted = affine.copy()
    shifted[0, 3] += 0.5
    with pytest.raises(DataError, match=r"corners up to 0\.5 mm away"):
        write_dicom_seg(class_map(), shifted, files, LABELS, target)
    with pytest.raises(DataError, match="needs the files of the series that was segmented, found none"):
        write_dicom_seg(class_map(), affine, [], LABELS, target)
    dataset = pydicom.dcmread(files[2])
    del dataset.FrameOfReferenceUID
    dataset.save_as(files[2])
    with pytest.raises(DataError, match=r"003\.dcm: a DICOM SEG needs FrameOfReferenceUID of its source"):
        write_dicom_seg(class_map(), affine, files, LABELS, target)
    files[0].write_bytes(b"no DICOM file at all" * 20)
    with pytest.raises(DataError, match=r"001\.dcm: is no DICOM file"):
        write_dicom_seg(class_map(), affine, files, LABELS, target)
    assert not target.exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"liver": ["10200004", "SCT", "Liver"]}, "names 'liver', but the labels are lung, lesion, absent one"),
        ({"lung": ["39607008", "SCT"]}, "'lung': a code is .value, scheme, meaning., three texts"),
        ({"lung": "39607008"}, "'lung': a code is .value, scheme, meaning., three texts"),
        ({"lung": {"kind": ["39607008", "SCT", "Lung"]}}, "'lung': the keys are 'category' and 'type', got .'kind'."),
    ],
)
def test_codes_of_another_form_are_refused(entry: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SaveDicomSegd("pred", "out", LABELS, entry)


def test_the_transform_writes_for_dicom_input_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files, affine = write_series(tmp_path / "series", OBLIQUE, reverse=True)
    save = SaveDicomSegd("pred", tmp_path / "out", LABELS)
    save(prediction(tmp_path / "volume.nii.gz", affine))
    assert not (tmp_path / "out").exists()
    save(prediction(tmp_path / "series", affine))
    assert places_in_file(tmp_path / "out" / "c1_seg.dcm") == places(class_map(), affine)
    (tmp_path / "out" / "c1_seg.dcm").unlink()
    for file in files:
        dataset = pydicom.dcmread(file)
        del dataset.StudyInstanceUID
        dataset.save_as(file)
    save(prediction(tmp_path / "series", affine))
    assert "c1: no DICOM SEG is written, its segmentation is only in NIfTI" in caplog.text
    assert not list((tmp_path / "out").iterdir())


def test_inference_writes_a_segmentation_of_the_series(trained: Trained, tmp_path: Path) -> None:
    files, _ = write_series(tmp_path / "scan", OBLIQUE, reverse=True)
    draw(files)
    places_of_run = {"dataset_dir": str(tmp_path / "scan"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    places_of_run["checkpoint"] = str(trained.output_dir / "model.pt")
    run_here("run", "inference.json", **places_of_run, segment_codes={"core": ["4147007", "SCT", "Mass"]})
    volume = nib.load(next((tmp_path / "out" / "predictions").glob("*_pred.nii.gz")))
    (path,) = (tmp_path / "out" / "predictions").glob("*_seg.dcm")
    expected = places(np.asanyarray(volume.dataobj), volume.affine)
    assert expected
    assert places_in_file(path) == expected
    segments = pydicom.dcmread(path).SegmentSequence
    assert [segment.SegmentLabel for segment in segments] == ["shell", "core"]
    assert segments[1].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Mass"
    run_here("run", "inference.json", **{**places_of_run, "output_dir": str(tmp_path / "other")}, dicom_seg=False)
    assert not list((tmp_path / "other").rglob("*.dcm"))
    message = "postprocessing: segment_codes names 'liver', but the labels are shell, core"
    del places_of_run["output_dir"]
    refused(tmp_path / "third", message, "run", "inference.json", **places_of_run, segment_codes={"liver": []})


def draw(files: Sequence[Path]) -> None:
    """Noise, so that a network says something of it."""
    rng = np.random.default_rng(0)
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.PixelData = rng.integers(0, 900, (ROWS, COLUMNS)).astype(np.int16).tobytes()
        dataset.save_as(file)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (Debian package dicom3tools)")
@pytest.mark.parametrize("empty", [False, True])
def test_the_file_conforms(tmp_path: Path, empty: bool) -> None:
    files, affine = write_series(tmp_path / "series", OBLIQUE)
    classes = np.zeros_like(class_map()) if empty else class_map()
    write_dicom_seg(classes, affine, files, LABELS, tmp_path / "seg.dcm")
    found = subprocess.run(["dciodvfy", tmp_path / "seg.dcm"], capture_output=True, text=True, check=False)
    assert found.returncode == 0
    assert not [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]
    assert "Segmentation" in found.stdout + found.stderr
