"""Senseless datalists, files and folders: refused by name, warned of, or right, as in test_senseless_input.py."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support.bundle_runs import TINY, CohortFolder, command_here
from support.senseless import Keys, check_start

pytestmark = pytest.mark.slow

IMAGE, LABEL = "images/case_0.nii.gz", "labels/case_0.nii.gz"
Spoil = Callable[[CohortFolder], None]

RAW: dict[str, tuple[bytes, str]] = {
    "nested": (b'{"labels": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "cannot be read: it is nested too deeply"),
    "empty": (b"", "expected a JSON file, but it cannot be read"),
    "text": (b"hello", "expected a JSON file, but it cannot be read"),
    "half": (b'{"labels": ["a"', "expected a JSON file, but it cannot be read"),
    "UTF-16": ('{"labels": []}'.encode("utf-16"), "expected a JSON file, but it cannot be read"),
    "a long number": (b"1" * 5000, "expected a JSON file, but it cannot be read"),
    "a list": (b"[]", "expected a JSON object, found a list"),
    "null": (b"null", "expected a JSON object, found null"),
    "infinite": (b"1e999", "expected a JSON object, found a float"),
}


def _case(**changes: Any) -> Keys:
    return {"training": [{"image": IMAGE, "label": LABEL, **changes}]}


LISTS: list[tuple[Keys, str]] = [
    ({"labels": None}, 'key "labels" is missing'),
    ({"labels": ["a"]}, 'key "labels": expected .* two at least'),
    ({"labels": ["a", "a", "b"]}, 'key "labels": expected a different name for each'),
    ({"labels": {"0": "a", "2": "b"}}, r"found keys \['0', '2'\]"),
    ({"labels": [1, 2, 3]}, 'key "labels", entry "0": expected a name, found 1'),
    ({"labels": ["background", "shell"]}, r'values outside "labels" \(0, 1\): found 0, 1, 2'),
    ({"label_values": [0, 1]}, 'key "label_values": expected the files\' value for each of 3 classes'),
    ({"channel_names": 5}, 'key "channel_names": expected a list of names, found 5'),
    ({"training": "images"}, 'key "training": expected a list of cases, found a string'),
    ({"training": [None]}, '"training" entry 0: expected {"image": path, ...}, found null'),
    ({"training": [{"image": IMAGE}]}, 'a training case needs a "label"'),
    (_case(image=5), "expected the path of one volume under"),
    (_case(label=[LABEL]), 'expected the path of one volume under "label", found a list'),
    (_case(patient={}), 'expected an id under "patient", found an object'),
    (_case(label=IMAGE), "named as the label of .* which is the same file"),
    (_case(image="images"), "expected a volume file, or a folder of DICOM slices"),
    (_case(image="a\0.nii.gz"), r"expected paths that files can have, found 'a\\x00"),
    (_case(image="\ud800.nii.gz"), r"expected paths that files can have, found '\\ud800"),
    (_case(image="a" * 300 + ".nii.gz"), "File name too long"),
    (_case(image="/dev/zero"), "expected files in the dataset's folder, .*, found /dev/zero"),
    (_case(image="../base/x.nii.gz"), "expected files in the dataset's folder"),
    ({"validation": [{"image": "images/case_4.nii.gz"}]}, '"validation" is what weights are selected by'),
]


def _rewrite(change: Callable[[np.ndarray], np.ndarray], affine: Any = None, only: str = "") -> Spoil:
    """Change the voxels of images, and the affine of images and labels; of one case or of all."""

    def spoil(cohort: CohortFolder) -> None:
        for path in sorted(cohort.root.glob("*/*.nii.gz")):
            if only not in path.name:
                continue
            volume = nib.load(path)
            voxels = np.asanyarray(volume.dataobj)
            changed = change(voxels) if path.parent.name == "images" else voxels
            nib.save(nib.Nifti1Image(changed, volume.affine if affine is None else affine), path)

    return spoil


def _link_to_itself(cohort: CohortFolder) -> None:
    (cohort.root / IMAGE).unlink()
    (cohort.root / IMAGE).symlink_to(Path(IMAGE).name)


def _pipe(cohort: CohortFolder) -> None:
    (cohort.root / IMAGE).unlink()
    os.mkfifo(cohort.root / IMAGE)


def _paint(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def spoil(cohort: CohortFolder) -> None:
        label = nib.load(cohort.root / LABEL)
        cohort.write(LABEL, nib.Nifti1Image(change(np.asanyarray(label.dataobj)), label.affine))

    return spoil


def _same(voxels: np.ndarray) -> np.ndarray:
    return voxels


_SHEARED = np.array([[1.5, 1, 0, 0], [0, 1.5, 0, 0], [0, 0, 6, 0], [0, 0, 0, 1]])
#: kind to how the files are spoiled, and the message or warning
FILES: list[tuple[str, Spoil, str]] = [
    ("sheared", _rewrite(_same, _SHEARED, "case_0"), "warned: 1 image has axes that are not at right angles"),
    ("all sheared", _rewrite(_same, _SHEARED), "warned: 7 images have axes that are not at right angles"),
    (
        "spacing of metres",
        _rewrite(_same, np.diag([0.0015, 0.0015, 0.006, 1])),
        "warned: 7 images have voxels that are",
    ),
    ("spacing of atoms", _rewrite(_same, np.diag([1e-6] * 3 + [1])), "expected an affine with positive, finite voxel"),
    ("spacing of mountains", _rewrite(_same, np.diag([1e6] * 3 + [1])), "warned: 7 images have voxels that are hardly"),
    (
        "one mountain",
        _rewrite(_same, np.diag([1e6] * 3 + [1]), "case_0"),
        "1e\\+06 mm would become one of .* of memory",
    ),
    ("no spacing", _rewrite(_same, np.diag([1e-30, 1, 1, 1]), "case_0"), "expected an affine with positive, finite"),
    ("mirrored", _rewrite(_same, np.diag([-1.5, 1.5, 6, 1])), "right: axes are brought to one orientation"),
    (
        "far away",
        _rewrite(_same, np.array([[1.5, 0, 0, 1e9], [0, 1.5, 0, 0], [0, 0, 6, 0], [0, 0, 0, 1]])),
        "right: only",
    ),
    ("constant", _rewrite(lambda v: v * 0 + 5, None, "case_0"), r"warned: case_0\.nii\.gz: all intensities are 5"),
    ("not finite", _rewrite(lambda v: v / 0, None, "case_0"), "4096 of 4096 intensities are NaN or infinite"),
    ("enormous", _rewrite(lambda v: v * np.float32(1e30)), "right: intensities are scaled by their percentiles"),
    (
        "one enormous",
        _rewrite(lambda v: v * np.float32(1e35), None, "case_0"),
        "warned: 1 file has an unusual intensity",
    ),
    (
        "complex",
        _rewrite(lambda v: v.astype(np.complex64), None, "case_0"),
        "expected real numbers as voxels, found type",
    ),
    (
        "five axes",
        _rewrite(lambda v: np.stack([np.stack([v, v], -1)] * 2, -1), None, "case_0"),
        "expected an image of 2 or 3 dimensions",
    ),
    ("one voxel", _rewrite(lambda v: v[:1, :1, :1], None, "case_0"), "shape .* differs from its image's"),
    ("empty label", _paint(lambda v: v * 0), r"warned: case_0\.nii\.gz: the label is empty"),
    ("fractions of classes", _paint(lambda v: v * np.float32(0.5)), 'not whole numbers of "labels"'),
    ("negative classes", _paint(lambda v: -v.astype(np.int16)), r"values outside \"labels\" .*: found -2, -1, 0"),
    (
        "noise as label",
        _paint(lambda v: np.arange(v.size, dtype=np.uint8).reshape(v.shape) % 3),
        "warned: .*unusual share",
    ),
    (
        "a web page",
        lambda cohort: (cohort.root / IMAGE).write_bytes(b"<html>") and None,
        "expected a NIfTI file, found",
    ),
    ("a link to itself", _link_to_itself, r"case_0\.nii\.gz: no such file"),
    ("a pipe", _pipe, "expected a file, found a pipe or device, which may never end"),
    (
        "a folder in itself",
        lambda cohort: (cohort.root / "images/loop").symlink_to(".."),
        "right: folders are not searched",
    ),
]
FOLDERS = ["$x", "@x", "%x", "~x", "a b", "a'b", "a;b", "-x", "a,b", "[1]", "(a,b)", "true", "none", "20240131", "a|b"]


@pytest.mark.parametrize("kind", RAW)
def test_datalists_that_are_none(cohort: CohortFolder, tmp_path: Path, caplog: Any, kind: str) -> None:
    content, expected = RAW[kind]
    (cohort.root / "datalist.json").write_bytes(content)
    check_start(cohort, tmp_path / "out", {}, expected, caplog)


@pytest.mark.parametrize("changes, expected", LISTS, ids=[f"{str(changes)[:50]!a}" for changes, _ in LISTS])
def test_datalists(cohort: CohortFolder, tmp_path: Path, caplog: Any, changes: Keys, expected: str) -> None:
    cohort.datalist |= changes
    (cohort.root / "datalist.json").write_text(json.dumps(cohort.datalist))
    check_start(cohort, tmp_path / "out", {}, expected, caplog)


@pytest.mark.parametrize("spoil, expected", [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_files(cohort: CohortFolder, tmp_path: Path, caplog: Any, spoil: Spoil, expected: str) -> None:
    spoil(cohort)
    check_start(cohort, tmp_path / "out", {}, expected, caplog)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_any_name_is_a_folder(
    shared_cohort: CohortFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As typed after ``vqseg train`` in the folder above it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shared_cohort.root, tmp_path / name)
    typed = f"./{name}" if name.startswith("-") else name
    words = [f"--{key}={value}" for key, value in {**TINY, "max_iterations": 1}.items()]
    arguments = ["train", f"--dataset_dir={typed}", f"--output_dir={typed}/out", *words]
    if name == "~x":  # a shell's own sign for a home
        arguments[1:3] = [f"--dataset_dir={tmp_path}/~x", f"--output_dir={tmp_path}/~x/out"]
    result = command_here(*arguments, cwd=tmp_path, module="vqseg_bundle")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / name / "out" / "model.pt").is_file()
