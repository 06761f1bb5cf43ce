"""The command ``vqseg check``, its report, and what it remembers of files."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from support.bundle_runs import ROOT, CohortFolder
from support.data_parts import hounsfield, write_dicom

from vqseg_bundle.commands.check import main
from vqseg_bundle.common import shell_line, vqseg_words
from vqseg_bundle.data import FINDING_KINDS, check_cohort, examine_cohort, load_datalist, read_header
from vqseg_bundle.data.checking import facts
from vqseg_bundle.data.formats.volume_path import join_volume_path

DATA = Path(os.environ.get("VQSEG_DATA_ROOT") or ROOT.parent / "shared" / "data")
SCHEMA = json.loads((ROOT / "docs" / "data_check.schema.json").read_text())


@pytest.fixture
def cohort(cohort: CohortFolder) -> CohortFolder:
    """Without the case that lies otherwise than the rest, which is a finding."""
    cohort.datalist["test"].pop()
    cohort.save()
    for kind in ("images", "labels"):
        (cohort.root / kind / "turned.nii.gz").unlink()
    return cohort


@pytest.fixture
def old(cohort: CohortFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CohortFolder:
    """A cohort whose files were written an hour ago, and an empty cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for file in cohort.root.rglob("*.gz"):
        age(file, 3600)
    return cohort


def age(file: Path, seconds: float) -> None:
    now = time.time_ns()
    os.utime(file, ns=(now, now - int(seconds * 1e9)))


def run(cohort: CohortFolder, *options: object) -> int:
    with pytest.raises(SystemExit, match=r"^[012]$") as caught:
        main(["--dataset-dir", str(cohort.root), "--no-progress", *map(str, options)])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def volumes_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    for name in ("read_voxels", "read_classes"):
        original = getattr(facts, name)

        def counted(path: str, original: Callable[[str], Any] = original) -> Any:
            read.append(Path(path).name)
            return original(path)

        monkeypatch.setattr(facts, name, counted)
    return read


def empty_a_label(cohort: CohortFolder) -> None:
    cohort.write("labels/case_0.nii.gz", nib.Nifti1Image(np.zeros((32, 32, 4), np.uint8), np.diag([1.5, 1.5, 6, 1])))


def test_exit_codes(cohort: CohortFolder, capsys: pytest.CaptureFixture[str]):
    assert run(cohort) == 0
    assert "no findings\n\n0 errors, 0 warnings (full check" in capsys.readouterr().out
    empty_a_label(cohort)
    assert run(cohort) == 0
    assert run(cohort, "--strict") == 1
    (cohort.root / "images/case_2.nii.gz").unlink()
    assert run(cohort) == 1
    assert run(cohort, "--datalist", cohort.root / "nowhere.json") == 2
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "expected a folder with a datalist.json in it, vqseg check DIR" in capsys.readouterr().err


def test_a_sound_cohort_is_followed_by_its_training_with_the_same_keys(
    cohort: CohortFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, expected in (
        ([], []),
        (["--intensity-window", "-100", "240.5"], ["--intensity_window", "'[-100,240.5]'"]),
        (["--uneven-slices", "accept"], ["--uneven_slices", "accept"]),
        (["--allow_outside_files"], ["--allow_outside_files", "true"]),
    ):
        with pytest.raises(SystemExit, match="0"):
            main([str(cohort.root), "--no-progress", *words])
        following = capsys.readouterr().out.rpartition("next: ")[2].strip()
        typed = shell_line([*vqseg_words(), "train"])
        assert following == " ".join([typed, "--dataset_dir", str(cohort.root), *expected])
    (cohort.root / "images/case_2.nii.gz").unlink()
    with pytest.raises(SystemExit, match="1"):
        main([str(cohort.root), "--no-progress"])
    assert "next:" not in capsys.readouterr().out


@pytest.mark.parametrize(("low", "high"), [("5", "5"), ("240.5", "-100"), ("nan", "1")])
def test_a_window_that_leaves_nothing_is_refused(
    cohort: CohortFolder, low: str, high: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cohort, "--intensity-window", low, high) == 2
    message = f"vqseg check: error: --intensity-window: expected LOW below HIGH, found {low} {high}.\n"
    assert capsys.readouterr().err == message


def test_unevenly_spaced_slices_are_accepted_as_the_refusal_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        slices = write_dicom(tmp_path / "images" / name, hounsfield((8, 7, 6), seed=ord(name)))
        slices[2].unlink()
        slices[3].unlink()
        label = np.zeros((8, 7, 4), np.uint8)
        label[2:6, 2:5] = 1
        (tmp_path / "labels").mkdir(exist_ok=True)
        affine = read_header(join_volume_path(str(tmp_path / "images" / name), accept_uneven=True)).affine
        nib.save(nib.Nifti1Image(label, affine), tmp_path / "labels" / f"{name}.nii.gz")
    entries = [{"image": f"images/{name}", "label": f"labels/{name}.nii.gz"} for name in ("a", "b")]
    (tmp_path / "datalist.json").write_text(json.dumps({"labels": ["background", "organ"], "training": entries}))
    for words, code in (([], "1"), (["--uneven-slices", "accept"], "0")):
        with pytest.raises(SystemExit, match=code):
            main([str(tmp_path), "--no-progress", "--no-cache", *words])
        assert ("uneven_slices" in capsys.readouterr().out.partition("next:")[0]) is (code == "1")


def test_table_groups_findings_and_names_the_first_files(cohort: CohortFolder, capsys: pytest.CaptureFixture[str]):
    for i in (0, 1, 4, 5):
        (cohort.root / f"labels/case_{i}.nii.gz").unlink()
    assert run(cohort) == 1
    lines = capsys.readouterr().out.splitlines()
    start = next(place for place, line in enumerate(lines) if "missing_file" in line)
    assert lines[start] == "error    missing_file                  4  a file is not there"
    assert lines[start + 1].strip() == "labels/case_0.nii.gz: no such file"
    assert [line.strip() for line in lines[start + 4 : start + 6]] == [
        "... and 1 more",
        "-> correct the path in the datalist, or dataset_dir",
    ]
    assert "training" + " " * 21 + "2         2         2" in lines
    assert run(cohort, "--all") == 1
    assert "labels/case_5.nii.gz: no such file" in capsys.readouterr().out


def test_report_follows_its_schema(cohort: CohortFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    empty_a_label(cohort)
    (cohort.root / "images/case_2.nii.gz").unlink()
    output = tmp_path / "report" / "check.json"
    assert run(cohort, "--json", output) == 1
    report = json.loads(output.read_text())
    assert list(Draft202012Validator(SCHEMA).iter_errors(report)) == []
    assert (report["errors"], report["warnings"]) == (1, 1)
    assert [finding["code"] for finding in report["findings"]] == ["missing_file", "empty_label"]
    assert report["findings"][0]["files"] == [str(cohort.root / "images/case_2.nii.gz")]
    assert report["cohort"]["splits"]["test"] == {"patients": 1, "cases": 1, "labels": 1}
    classes = report["cohort"]["classes"]
    voxels = sum(np.prod(nib.load(file).shape) for file in (cohort.root / "labels").iterdir())
    assert sum(known["voxels"] for known in classes) == voxels
    assert sum(known["share"] for known in classes) == pytest.approx(1)

    assert run(cohort, "--json", output) == 2
    assert "the file exists; give another name, or --force" in capsys.readouterr().err
    assert run(cohort, "--json", output, "--force", "--level", "headers") == 1
    report = json.loads(output.read_text())
    assert list(Draft202012Validator(SCHEMA).iter_errors(report)) == []
    assert [known["share"] for known in report["cohort"]["classes"]] == [None] * 3


def test_the_document_explains_every_code():
    text = (ROOT / "docs" / "data_check.md").read_text(encoding="utf-8")
    for code, kind in FINDING_KINDS.items():
        assert f"| `{code}` | {kind.severity} | {kind.meaning} | {kind.remedy} |" in text
    assert text.count("| error |") + text.count("| warning |") == len(FINDING_KINDS)


def test_the_second_check_reads_only_what_changed(old: CohortFolder, monkeypatch: pytest.MonkeyPatch):
    cohort = load_datalist(old.root / "datalist.json", old.root)
    read = volumes_read(monkeypatch)
    first = examine_cohort(cohort, 1, progress=False)
    assert len(read) == 10  # 6 images, 4 labels
    read.clear()
    assert examine_cohort(cohort, 1, progress=False) == first
    assert read == []
    empty_a_label(old)
    age(old.root / "labels/case_0.nii.gz", 60)
    (warning,) = check_cohort(cohort, 1, progress=False)
    assert "case_0.nii.gz: the label is empty" in warning
    assert read == ["case_0.nii.gz"]


def test_what_another_version_remembered_is_read_again(
    old: CohortFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    cohort = load_datalist(old.root / "datalist.json", old.root)
    check_cohort(cohort, 1, progress=False)
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": "1, 0.0.1"}))
    read = volumes_read(monkeypatch)
    assert check_cohort(cohort, 1, progress=False) == []
    assert len(read) == 10
    assert "damaged" not in caplog.text


def test_a_file_of_this_moment_is_not_remembered(old: CohortFolder, monkeypatch: pytest.MonkeyPatch):
    age(old.root / "labels/case_0.nii.gz", 0)
    cohort = load_datalist(old.root / "datalist.json", old.root)
    check_cohort(cohort, 1, progress=False)
    read = volumes_read(monkeypatch)
    check_cohort(cohort, 1, progress=False)
    assert read == ["case_0.nii.gz"]


def test_no_cache_leaves_nothing_behind(old: CohortFolder, tmp_path: Path):
    assert run(old, "--no-cache") == 0
    assert not (tmp_path / "cache").exists()
    assert run(old) == 0
    (file,) = (tmp_path / "cache").rglob("*.*")
    assert file.parent == tmp_path / "cache" / "vqseg_bundle" / "data_check"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": FORMAT, "files": {"a": 3}}', '{"format": FORMAT}'])
def test_a_damaged_cache_is_a_note(
    old: CohortFolder, tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    cohort = load_datalist(old.root / "datalist.json", old.root)
    check_cohort(cohort, 1, progress=False)
    (file,) = (tmp_path / "cache").rglob("*.json")
    whole = file.read_text()
    file.write_text(content.replace("FORMAT", json.dumps(json.loads(whole)["format"])))
    read = volumes_read(monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert check_cohort(cohort, 1, progress=False) == []
    assert "is damaged and made anew" in caplog.text
    assert len(read) == 10
    assert json.loads(file.read_text()) == json.loads(whole)


def test_a_cache_that_cannot_be_written_is_no_error(
    old: CohortFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "cache").write_text("a file, not a folder")
    cohort = load_datalist(old.root / "datalist.json", old.root)
    with caplog.at_level(logging.INFO):
        assert check_cohort(cohort, 1, progress=False) == []
    assert "its results are not remembered" in caplog.text


def listed(name: str, output: Path, *options: str) -> tuple[str, ...]:
    from vqseg_bundle.commands.data import main as make_datalist

    if not (DATA / name).is_dir():
        pytest.skip(f"needs the folder {name} at VQSEG_DATA_ROOT")
    make_datalist(["--dataset-dir", str(DATA / name), "--output", str(output), *options])
    return ("--dataset-dir", str(DATA / name), "--datalist", str(output), "--no-progress", "--no-cache")


@pytest.mark.data
def test_hippocampus_has_one_warning(tmp_path: Path):
    options = listed("hippocampus", tmp_path / "list.json", "--labels", "background,anterior,posterior")
    with pytest.raises(SystemExit, match="0"):
        main([*options, "--json", str(tmp_path / "report.json")])
    (finding,) = json.loads((tmp_path / "report.json").read_text())["findings"]
    assert finding["code"] == "intensity_outlier"
    assert len(finding["files"]) == 31


@pytest.mark.data
def test_acdc_names_the_patients_that_share_images(tmp_path: Path):
    options = listed("acdc", tmp_path / "list.json", "--labels", "background,rv,myo,lv")
    with pytest.raises(SystemExit, match="0"):
        main([*options, "--json", str(tmp_path / "report.json")])
    findings = json.loads((tmp_path / "report.json").read_text())["findings"]
    assert [finding["code"] for finding in findings] == ["conflicting_labels"] * 2
    for finding in findings:
        assert [Path(file).name[:10] for file in finding["files"]] == ["patient074", "patient076"]
