"""Slices and frames whose names tell of one patient, in lists to learn from and to evaluate on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.datalist_parts import run, save

from vqseg_bundle.data import Finding, examine_cohort, find_frames_apart, load_datalist


def dealt(names: list[str]) -> list[tuple[str, str]]:
    """Every third case is held out."""
    return [("test" if place % 3 == 2 else "training", name) for place, name in enumerate(names)]


def named(form: str, endings: Iterable[object]) -> list[str]:
    """Six patients' names with each of the endings."""
    return [form.format(patient, ending) for patient in range(6) for ending in endings]


@pytest.mark.parametrize(
    ("names", "stem", "pattern"),
    [
        (
            [f"patient{p:03d}_slice{s:02d}" for p in range(3) for s in range(4)],
            "patient000",
            "^(.*?)[_-]?slice[_-]?[0-9]+$",
        ),
        (
            [f"patient{p:03d}_frame{s:02d}" for p in range(3) for s in (1, 12)],
            "patient001",
            "^(.*?)[_-]?frame[_-]?[0-9]+$",
        ),
        ([f"anna{p}-Visit-{s}" for p in range(2) for s in range(3)], "anna0", "^(.*?)[_-]?Visit[_-]?[0-9]+$"),
        ([f"p{p}z{s}" for p in range(2) for s in range(3)], "p0", "^(.*?)[_-]?z[_-]?[0-9]+$"),
        ([f"p{p}_{s}" for p in range(3) for s in range(4)], "p0", "^(.*)[_-][0-9]+$"),
        (["a_slice1", "a_slice2", "a_slice3", "b_slice7"], "a", "^(.*?)[_-]?slice[_-]?[0-9]+$"),
        (["a1_tp1", "a1_visit2", "a1_tp3", "b1_tp1"], "a1", "^(.*?)[_-]?(?:visit|tp)[_-]?[0-9]+$"),
        (named("sub-{:02d}_ses-{}_T1w", (1, 2)), "sub-01", "^(sub-[^_]+)"),
        *(
            (named(f"p{{}}_{word}{{}}", (1, 2)), "p1", f"^(.*?)[_-]?{word}[_-]?[0-9]+$")
            for word in ("ses", "session", "scan", "day", "week", "phase", "run", "echo", "MR", "s", "z")
        ),
        (named("OAS1_{:04d}_MR{}", (1, 2)), "OAS1_0001", "^(.*?)[_-]?MR[_-]?[0-9]+$"),
        (named("{:04d}_slice_{}_axial", range(4)), "0000", "^(.*?)[_-]?slice[_-]?[0-9]+_axial$"),
        (named("patient{:03d}_frame{}_crop", ("01", "12")), "patient001", "^(.*?)[_-]?frame[_-]?[0-9]+_crop$"),
        (named("img_p{}_z{}_512", range(4)), "img_p0", "^(.*?)[_-]?z[_-]?[0-9]+_512$"),
        (named("p{:02d} slice{}", range(4)), "p00", "^(.*?)[_. -]?slice[_. -]?[0-9]+$"),
        (named("p{:02d}.slice{}", range(4)), "p00", "^(.*?)[_. -]?slice[_. -]?[0-9]+$"),
        (named("pat{}{}", "ab"), "pat1", "^(.*?)[_-]?(?:a|b)$"),
        (named("P{:03d}_{}", ("pre", "post")), "P001", "^(.*?)[_-]?(?:post|pre)$"),
        (named("P{}_{}", ("baseline", "week12", "week24")), "P0", "^(.*?)[_-]?(?:baseline|week12|week24)$"),
        (named("hip{}_{}", "LR"), "hip1", "^(.*?)[_-]?(?:L|R)$"),
        (named("case{}_sa_{}", ("ED", "ES")), "case1_sa", "^(.*?)[_-]?(?:ED|ES)$"),
        (named("p{}_{}", ("L_slice1", "R_slice1", "L_slice2")), "p0", "^(.*?)[_-]?(?:L|R)[_-]?slice[_-]?[0-9]+$"),
        (
            named("p{}_{}", ("ses1_run1", "ses1_run2", "ses2_run1")),
            "p0",
            "^(.*?)[_-]?ses[_-]?[0-9]+[_-]?run[_-]?[0-9]+$",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_slices_of_one_patient_are_told_with_a_pattern(names: list[str], stem: str, pattern: str):
    found = find_frames_apart(dealt(names))
    assert found is not None
    assert (next(iter(found.patients)), found.pattern) == (stem, pattern)
    for patient, lists in found.patients.items():
        assert {re.search(pattern, name)[1] for cases in lists.values() for name in cases} == {patient}
    assert find_frames_apart([("training", name) for name in names]) is None
    assert (
        find_frames_apart([("unlabeled" if split == "test" else split, name) for split, name in dealt(names)]) is None
    )


@pytest.mark.parametrize(
    "names",
    [
        *(
            [f"{stem}{i}" for i in range(9)]
            for stem in ("hippocampus_", "img", "BRATS_", "la_", "patient", "slice_", "")
        ),
        *([f"{stem}{i}" for i in range(9)] for stem in ("BraTS20_Training_00", "brain_t", "volume-", "slice", "p1_t")),
        *(
            [f"{stem}{i}" for i in range(1, 101)]
            for stem in ("case_00000", "LUNG-", "p", "scan", "scan_", "IM-", "sub-", "s", "Case ", "pat.", "CHAOS_MR_")
        ),
        [f"patient{i:03d}_frame01" for i in range(9)],
        [f"sub-{i:02d}_ses-1_T1w" for i in range(9)],
        [f"OAS1_{i:04d}_MR1" for i in range(9)],
        [f"002_S_{i:04d}" for i in range(9)],
        [f"1.3.6.1.4.1.{place}.{i}" for place in range(4) for i in range(5)],
        [f"{i:03d}_{grade}" for i, grade in enumerate(["HGG", "LGG"] * 9)],
        [f"{i:03d}_{side}" for i, side in enumerate(["L", "R"] * 9)],
        [f"{year}_{letter}{i:03x}" for year, letter in ((2019, "a"), (2020, "b")) for i in range(9)],
        [f"{hospital}_{i}" for hospital in ("RUNMC", "BMC", "HK") for i in range(5)],
        [f"{grade}_{i}" for grade in ("HGG18", "LGG18") for i in range(5)],
        [f"{side}_t{i}" for side in ("left", "right") for i in range(5)],
        [f"IXI{i:03d}-HH-{1000 + i}" for i in range(9)],
        [*(f"p{p}_{s}" for p in range(4) for s in range(3)), "p9_1"],
        [*(f"p{p}_slice{s}" for p in range(4) for s in range(3)), "other"],
    ],
    ids=lambda names: names[0],
)
def test_ordinary_names_are_left_alone(names: list[str]):
    assert find_frames_apart(dealt(names)) is None


def slices(folder: Path) -> list[str]:
    for place, name in enumerate(f"patient{p:03d}_slice{s:02d}" for p in range(6) for s in range(3)):
        save(folder / f"images/{name}.nii.gz", place)
        save(folder / f"labels/{name}.nii.gz", place, classes=2)
    return ["--labeled-count", "2", "--test-count", "2"]


def apart(folder: Path) -> list[Finding]:
    report = examine_cohort(load_datalist(folder / "datalist.json", folder), 1, "headers", progress=False)
    return [finding for finding in report.findings if finding.code in ("frames_apart", "similar_patients")]


def test_data_and_check_say_so_and_the_pattern_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = slices(tmp_path)
    run(tmp_path, *options)
    pattern = "^(.*?)[_-]?slice[_-]?[0-9]+$"
    error = capsys.readouterr().err
    assert error.startswith(
        "warning: slices or frames that seem to be of one patient are both learnt from and held out: "
    )
    assert error.endswith(f"If they are, give --patient-pattern '{pattern}'.\n")
    (finding,) = apart(tmp_path)
    assert (finding.code, finding.severity) == ("frames_apart", "warning")
    assert finding.advice.endswith(f"vqseg data --patient-pattern '{pattern}'")
    run(tmp_path, "--patient-pattern", pattern, *options)
    datalist = tmp_path / "datalist.json"
    assert capsys.readouterr().err == (
        f"warning: --patient-pattern finds other patients than {datalist} has, so whom that held out is not kept.\n"
    )
    assert apart(tmp_path) == []


def test_slices_in_a_folder_for_each_patient_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for place, (patient, number) in enumerate((p, s) for p in range(6) for s in range(3)):
        save(tmp_path / f"images/p{patient}/slice{number}.nii.gz", place)
        save(tmp_path / f"labels/p{patient}/slice{number}.nii.gz", place, classes=2)
    run(tmp_path, "--labeled-count", "2", "--test-count", "2")
    assert "If they are, give --patient-pattern '^(.*?)[_-]?slice[_-]?[0-9]+$'." in capsys.readouterr().err


def test_patients_that_differ_in_case_alone_are_warned_of(tmp_path: Path):
    slices(tmp_path)
    names = [f"images/patient000_slice0{s}.nii.gz" for s in range(3)]
    entries = [{"image": name, "label": name.replace("images", "labels")} for name in names]
    content = {"labels": ["background", "a"], "training": [{**entries[0], "patient": "P1"}]}
    for patient, found in (("p1", ["similar_patients"]), ("p2", [])):
        lists = {"unlabeled": [{"image": names[2], "patient": "P2"}], "test": [{**entries[1], "patient": patient}]}
        lists = lists if found else {"test": lists["test"]}
        (tmp_path / "datalist.json").write_text(json.dumps({**content, **lists}))
        assert [finding.code for finding in apart(tmp_path)] == found
        assert not found or 'alone: "P1" in "training", "p1" in "test"; give' in apart(tmp_path)[0].message
