"""DICOM SEG of series as anonymisers and archives leave them: written where it legally can be, else a named reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from support.seg_parts import LABELS, SLICES, class_map, places, places_in_file, prediction, write_series

from vqseg_bundle.data import SaveDicomSegd, read_header, write_dicom_seg

TYPE_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
TYPE_2 += ("AccessionNumber", "ReferringPhysicianName")


def without(*names: str) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for name in names:
            delattr(dataset, name)

    return change


def put(**values: object) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)

    return change


def saved(folder: Path, *changes: Callable[[Dataset], None], labels: dict[int, str] = LABELS) -> Path:
    """Change every slice of a series and let the transform save a segmentation of it; the path it would have."""
    files, _ = write_series(folder / "series")
    with disable_value_validation():
        for file in files:
            dataset = pydicom.dcmread(file)
            for change in changes:
                change(dataset)
            dataset.save_as(file)
    affine = read_header(str(folder / "series")).affine
    SaveDicomSegd("pred", folder / "out", labels)(prediction(folder / "series", affine))
    return folder / "out" / "c1_seg.dcm"


def lies_where_it_should(folder: Path, seg: Path) -> bool:
    affine = read_header(str(folder / "series")).affine
    volume = hd.seg.segread(seg).get_volume(combine_segments=True)
    by_highdicom = places(volume.array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine)
    return by_highdicom == places_in_file(seg) == places(class_map(), affine)


@pytest.mark.parametrize("name", TYPE_2)
def test_an_attribute_that_may_be_empty_is(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    seg = saved(tmp_path, without(name))
    assert lies_where_it_should(tmp_path, seg)
    assert pydicom.dcmread(seg)[name].value in ("", None)
    assert f"not said, and so empty in DICOM SEG: {name}" in caplog.text


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({"PatientBirthDate": "XXXX"}, {"PatientBirthDate": ""}),
        ({"StudyDate": "ANON", "StudyTime": "25:00"}, {"StudyDate": "", "StudyTime": ""}),
        ({"PatientSex": "X"}, {"PatientSex": ""}),
        ({"PatientAge": "45"}, {"PatientAge": None}),
        ({"PatientWeight": "heavy"}, {"PatientWeight": None}),
    ],
)
def test_an_invalid_value_is_left_out_and_named(
    tmp_path: Path, values: dict, left: dict, caplog: pytest.LogCaptureFixture
):
    def change(dataset: Dataset) -> None:
        for name, value in values.items():
            vr = pydicom.datadict.dictionary_VR(name)
            dataset[name] = pydicom.dataelem.RawDataElement(
                pydicom.tag.Tag(name), vr, len(value), value.encode(), 0, False, True, True
            )

    seg = saved(tmp_path, change)
    assert lies_where_it_should(tmp_path, seg)
    dataset = pydicom.dcmread(seg)
    assert {name: dataset.get(name) for name in left} == left
    for name, value in values.items():
        assert f"{name} {value}" in caplog.text or f"DICOM SEG: {name}" in caplog.text


@pytest.mark.parametrize(
    ("name", "uid"),
    [("StudyInstanceUID", "1.2.03.4"), ("StudyInstanceUID", "ANON-STUDY-1"), ("FrameOfReferenceUID", "1.2.003")],
)
def test_an_invalid_uid_is_kept_so_that_both_are_found_together(
    tmp_path: Path, name: str, uid: str, caplog: pytest.LogCaptureFixture
):
    seg = saved(tmp_path, put(**{name: uid}))
    assert lies_where_it_should(tmp_path, seg)
    assert pydicom.dcmread(seg)[name].value == uid
    assert f"{name} {uid}" in caplog.text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("FrameOfReferenceUID"), "a DICOM SEG needs FrameOfReferenceUID of its source, found none"),
        (put(FrameOfReferenceUID=""), "a DICOM SEG needs FrameOfReferenceUID of its source, found none"),
        (without("StudyInstanceUID"), "a DICOM SEG needs StudyInstanceUID of its source, found none"),
        (put(SOPInstanceUID="1.2.3.4"), f"SOPInstanceUID, found 1.2.3.4 in {SLICES} of {SLICES} slices"),
        (put(SOPClassUID="1.2.3.9"), "SOPClassUID 1.2.3.9 is none of DICOM's"),
        (lambda dataset: put(StudyInstanceUID=f"1.2.{dataset.InstanceNumber}")(dataset), "part of the same series"),
    ],
)
def test_where_none_can_be_made_the_reason_is_named(
    tmp_path: Path, change: Callable[[Dataset], None], reason: str, caplog: pytest.LogCaptureFixture
):
    assert not saved(tmp_path, change).exists()
    assert "c1: no DICOM SEG is written, its segmentation is only in NIfTI" in caplog.text
    assert reason in caplog.text


def test_what_the_library_cannot_write_leaves_no_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def write(self: Dataset, path: Path) -> None:
        path.write_bytes(b"the first half")
        raise RecursionError("too deep")

    monkeypatch.setattr(hd.seg.Segmentation, "save_as", write)
    assert not saved(tmp_path).exists()
    assert "only in NIfTI (RecursionError: too deep)" in caplog.text


@pytest.mark.parametrize("character_set", [None, "ISO_IR 6", "ISO_IR 100", "ISO_IR 192", "ISO IR 100"])
def test_labels_are_readable_beside_any_character_set(tmp_path: Path, character_set: str | None):
    name = "Doe^Jane" if character_set in (None, "ISO_IR 6") else "Müller^Jörg"
    seg = saved(
        tmp_path,
        put(SpecificCharacterSet=character_set, PatientName=name),
        labels={0: "background", 1: "Tumör", 2: "肿瘤", 3: "a\\b"},
    )
    dataset = pydicom.dcmread(seg)
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["Tumör", "肿瘤", "a/b"]
    assert str(dataset.PatientName) == name
    assert dataset.SpecificCharacterSet == "ISO_IR 192"


def test_names_are_carried_over_to_utf_8_with_all_that_hangs_on_them(tmp_path: Path):
    def change(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        dataset.PatientName = "Yamada^Tarou=山田^太郎"
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "猫"
        dataset.PatientSpeciesCodeSequence = [item]

    dataset = pydicom.dcmread(saved(tmp_path, change))
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert str(dataset.PatientName) == "Yamada^Tarou=山田^太郎"
    assert dataset.PatientSpeciesCodeSequence[0].CodeMeaning == "猫"


def test_a_name_in_latin_1_without_a_character_set_stays_readable(tmp_path: Path):
    dataset = pydicom.dcmread(saved(tmp_path, put(PatientName="Müller^Jörg".encode("latin1"))))
    assert str(dataset.PatientName) == "Müller^Jörg"
    assert "SpecificCharacterSet" not in pydicom.dcmread(saved(tmp_path / "ascii"))


def drifting(dataset: Dataset) -> None:
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, dataset.InstanceNumber * 1e-4]


def rounded(dataset: Dataset) -> None:
    dataset.ImageOrientationPatient = [0.921, 0.389, 0, -0.389, 0.921, 0]


@pytest.mark.parametrize(
    "change",
    [
        without("SliceThickness"),
        put(SliceThickness=None),
        put(SpacingBetweenSlices=-9),
        drifting,
        rounded,
        put(ReferencedStudySequence=[Dataset()], ReferencedPatientSequence=[Dataset()]),
    ],
)
def test_odd_geometry_and_broken_references_are_no_hindrance(tmp_path: Path, change: Callable[[Dataset], None]):
    seg = saved(tmp_path, change)
    hd.seg.segread(seg)
    affine = read_header(str(tmp_path / "series")).affine
    found, expected = (np.array(sorted(place)) for place in (places_in_file(seg), places(class_map(), affine)))
    np.testing.assert_allclose(found, expected, atol=0.011)  # rounded to 0.01 mm
    dataset = pydicom.dcmread(seg)
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (float(measures.SliceThickness), float(measures.SpacingBetweenSlices)) == pytest.approx((4, 4), abs=0.02)
    assert "ReferencedStudySequence" not in dataset


def test_a_tilted_gantry_is_overlaid_slice_by_slice(tmp_path: Path):
    files, _ = write_series(tmp_path / "series")
    for index, file in enumerate(files):
        dataset = pydicom.dcmread(file)
        dataset.ImagePositionPatient = [-31.0, 12.5 + 1.1 * index, 7.25 + 4 * index]
        dataset.save_as(file)
    affine = read_header(str(tmp_path / "series")).affine
    write_dicom_seg(class_map(), affine, files, LABELS, tmp_path / "seg.dcm")
    assert places_in_file(tmp_path / "seg.dcm") == places(class_map(), affine)
    assert affine[1, 2] == pytest.approx(-1.1)


def test_a_file_without_preamble_is_a_source(tmp_path: Path):
    files, affine = write_series(tmp_path / "series")
    for file in files:
        file.write_bytes(file.read_bytes()[132:])
    write_dicom_seg(class_map(), affine, files, LABELS, tmp_path / "seg.dcm")
    assert places_in_file(tmp_path / "seg.dcm") == places(class_map(), affine)
