"""A file format is one record: what is in the table is found, checked and read for training, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from vqseg_bundle.data import (
    Cohort,
    DataError,
    LoadVolumed,
    VolumeHeader,
    examine_cohort,
    find_cases,
    find_classes,
    list_volumes,
    read_header,
)
from vqseg_bundle.data.formats import table
from vqseg_bundle.data.formats.file_format import FileFormat
from vqseg_bundle.data.formats.table import FORMATS, find_format

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
SHAPE = (4, 3, 2)
#: numbers as text, whose labels name their one class
TEXT = FileFormat(
    kind="text",
    title="text",
    suffixes=(".txt",),
    read_header=lambda path: VolumeHeader(SHAPE, np.diag([1.5, 1.5, 3.0, 1.0])),
    read_voxels=lambda path: np.loadtxt(path).reshape(SHAPE),
    class_names=lambda path: {1: "organ"},
    masks_of_255=True,
)


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, values.reshape(SHAPE[0], -1))


def test_a_record_in_the_table_is_all_that_a_format_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = np.arange(24.0)
    write(tmp_path / "images" / "a.txt", values)
    write(tmp_path / "labels" / "a.txt", 255.0 * (values > 20))
    image = str(tmp_path / "images" / "a.txt")
    with pytest.raises(DataError, match=r"a.txt: expected NIfTI, .*, found a file that ends in .txt; convert it"):
        read_header(image)

    monkeypatch.setattr(table, "FORMATS", (*FORMATS, TEXT))
    (case,) = find_cases(tmp_path)
    assert (case.image, case.label) == ("images/a.txt", "labels/a.txt")
    assert find_classes(tmp_path, [case]).names == ("background", "organ")
    assert [found["image"] for found in list_volumes(tmp_path / "images")] == [image]
    label = str(tmp_path / "labels" / "a.txt")
    cohort = Cohort("n", {0: "background", 1: "organ"}, training=[{"image": image, "label": label, "patient": "a"}])
    report = examine_cohort(cohort, 1, progress=False, use_cache=False)
    assert [finding.code for finding in report.findings] == ["mask_of_255"]
    assert report.summary["shape"]["max"] == [4, 3, 2]
    loaded = LoadVolumed(["image"])({"image": image})["image"]
    np.testing.assert_array_equal(loaded.numpy().ravel(), values)
    assert np.diag(loaded.affine).tolist() == [1.5, 1.5, 3.0, 1.0]
    assert LoadVolumed(["label"], is_label=True)({"label": label})["label"].sum() == 3


def test_a_broken_file_of_any_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table, "FORMATS", (*FORMATS, TEXT))
    (tmp_path / "a.txt").write_text("no number")
    with pytest.raises(DataError, match=r"a.txt: truncated or unreadable \(.*could not convert"):
        LoadVolumed(["image"])({"image": str(tmp_path / "a.txt")})


def test_a_name_is_of_one_format_and_all_are_documented():
    suffixes = [suffix for each in FORMATS for suffix in each.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(find_format(f"A{suffix.upper()}") is each for each in FORMATS for suffix in each.suffixes)
    assert {suffix for each in FORMATS for suffix in each.detached} <= set(suffixes)
    assert [each.kind for each in FORMATS if each.folders] == ["dicom"]
    rows = re.findall(r"^\| .*", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    documented = set(re.findall(r"`(\.\w+(?:\.gz)?)`", "\n".join(rows)))
    others = {".dcm", ".dicom", ".ima", ".hdr.gz", ".jpeg", ".tiff"}  # any name of a slice, and other spellings
    assert set(suffixes) - others <= documented
