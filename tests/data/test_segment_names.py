"""What label files call their own values, as 3D Slicer's do, beside what the datalist calls them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.data_parts import write_segments, write_volume

from vqseg_bundle.commands.data import main
from vqseg_bundle.data import DataError, check_cohort, load_datalist

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
SHAPE = (6, 5, 4)
NAMES = {1: "liver", 2: "tumour"}


def write_cohort(root: Path, *names: dict[int, str]) -> Path:
    """A case for each of the files' names, of the values in these and 0."""
    for seed, stated in enumerate(names):
        rng = np.random.default_rng(seed)
        write_volume(root / f"images/c{seed}.nii.gz", rng.normal(0, 99, SHAPE).astype(np.float32), AFFINE)
        classes = rng.choice([0, *stated], SHAPE)
        write_segments(root / f"labels/c{seed}.seg.nrrd", classes, AFFINE, stated)
    return root


def check(root: Path, use_cache: bool = False, **content: Any) -> None:
    """Check all cases as training ones, by their headers."""
    count = len(list((root / "images").iterdir()))
    entries = [{"image": f"images/c{i}.nii.gz", "label": f"labels/c{i}.seg.nrrd"} for i in range(count)]
    (root / "d.json").write_text(json.dumps({"training": entries, **content}))
    check_cohort(load_datalist(root / "d.json", root), 1, "headers", progress=False, use_cache=use_cache)


def test_a_class_of_another_value_in_the_file_is_refused(tmp_path: Path):
    write_cohort(tmp_path, NAMES, {1: "Tumour ", 2: "liver"})
    expected = (
        r'labels/c1\.seg\.nrrd: its own names give value 1 for "tumour", value 2 for "liver", the datalist '
        r'value 2 for "tumour", value 1 for "liver"; save the file'
    )
    with pytest.raises(DataError, match=rf"The data have 1 problem:\n- .*{expected}"):
        check(tmp_path, labels=["background", *NAMES.values()])


@pytest.mark.parametrize(
    "content",
    [
        {"labels": ["background", "LIVER", " tumour"]},
        {"labels": ["background", "organ", "tumour"]},
        {"labels": ["background", "a", "b"]},
        {"labels": ["background", "tumour", "liver", "ignore"], "label_values": [0, 2, 1, 9]},
    ],
)
def test_names_that_fit_or_are_unknown_are_accepted(tmp_path: Path, content: dict[str, Any]):
    check(write_cohort(tmp_path, NAMES, {1: "liver"}, {}), **content)


def test_names_are_those_of_the_files_values(tmp_path: Path):
    write_cohort(tmp_path, NAMES)
    with pytest.raises(DataError, match=r'names give value 2 for "tumour", the datalist value 4 for "tumour"'):
        check(tmp_path, labels=["background", "liver", "tumour"], label_values=[0, 1, 4])


def test_the_check_remembers_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in write_cohort(tmp_path / "data", NAMES).rglob("c0*"):
        os.utime(path, (1e9, 1e9))  # long settled
    for _ in range(2):
        check(tmp_path / "data", use_cache=True, labels=["background", "liver", "tumour"])
        with pytest.raises(DataError, match="its own names give value 1 for"):
            check(tmp_path / "data", use_cache=True, labels=["background", "tumour", "liver"])
    assert '"class_names": [[1, "liver"], [2, "tumour"]]' in next((tmp_path / "cache").rglob("*.json")).read_text()


def test_names_that_cannot_be_read_are_a_fault_of_their_file(tmp_path: Path):
    write_cohort(tmp_path, NAMES)
    path = tmp_path / "labels/c0.seg.nrrd"
    path.write_bytes(path.read_bytes().replace(b"LabelValue:=1", "LabelValue:=\u00b2".encode()))
    with pytest.raises(DataError, match=r"labels/c0\.seg\.nrrd: names of its values that cannot be read .*; save"):
        check(tmp_path, labels=["background", "liver", "tumour"])


@pytest.mark.parametrize("values", [[], ["--label-values", "0,1,2"]])
def test_given_names_that_the_files_contradict_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: list[str]
):
    write_cohort(tmp_path, NAMES, NAMES)
    main(["--dataset-dir", str(tmp_path), "--labels", "background,tumour,liver", *values])
    assert capsys.readouterr().err.splitlines()[-1] == (
        'warning: --labels contradicts the names of labels/c0.seg.nrrd and of 1 more: by --labels "liver" is '
        'value 2, in the file 1, "tumour" is value 1, in the file 2. A training refuses that: name the classes as the '
        "files do, or correct the files."
    )
    assert json.loads((tmp_path / "datalist.json").read_text())["labels"]["1"] == "tumour"


@pytest.mark.parametrize(
    "options", [[], ["--labels", "background,liver,tumour"], ["--labels", "a,b,c"], ["--label-values", "0,2,1"]]
)
def test_other_names_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]):
    write_cohort(tmp_path, NAMES)
    main(["--dataset-dir", str(tmp_path), *options])
    assert "warning" not in capsys.readouterr().err


def test_a_dataset_json_that_the_files_contradict_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_cohort(tmp_path, NAMES)
    entries = [{"image": "images/c0.nii.gz", "label": "labels/c0.seg.nrrd"}]
    labels = {"0": "background", "1": "tumour", "2": "liver"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "training": entries}))
    main(["--dataset-dir", str(tmp_path)])
    assert "warning: dataset.json contradicts the names of labels/c0.seg.nrrd: by" in capsys.readouterr().err
