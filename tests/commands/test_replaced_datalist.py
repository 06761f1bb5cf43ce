"""A datalist made again, after more scans have been labelled, holds out whom the former one held out."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.datalist_parts import patients, refused, run, save

from vqseg_bundle.data import DataError, FoundClasses, KeptLists, SplitRequest, split_patients

NAMES = [f"p{i}" for i in range(10)]


def kept(validation: list[str], test: list[str]) -> KeptLists:
    return KeptLists("former.json", {"validation": validation, "test": test}, [], FoundClasses(()))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Eight scans, the first five labelled."""
    for i in range(8):
        save(tmp_path / f"images/p{i}.nii.gz", i)
        if i < 5:
            save(tmp_path / f"labels/p{i}.nii.gz", i, classes=3)
    return tmp_path


@pytest.mark.parametrize("seed", range(4))
def test_held_out_patients_and_classes_stay_when_more_are_labelled(
    scans: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--validation-count", "1", "--test-count", "2", "--seed", str(seed))
    first = run(scans, *words, "--labels", "background,organ,tumour")
    for i in range(5, 8):
        save(scans / f"labels/p{i}.nii.gz", i, classes=3)
    for again in (words, ("--seed", "9")):  # asked for again, and not asked for
        capsys.readouterr()
        second = run(scans, *again)
        for split in ("validation", "test"):
            assert patients(second, split) == patients(first, split)
        assert second["labels"] == {"0": "background", "1": "organ", "2": "tumour"}
        assert len(second["training"]) == 5
        assert "warning" not in capsys.readouterr().err


def test_a_larger_number_adds_and_a_smaller_one_takes_away(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(scans, "--validation-count", "1", "--test-count", "1")
    more = run(scans, "--test-count", "2")
    assert set(patients(first, "test")) < set(patients(more, "test"))
    assert patients(more, "validation") == patients(first, "validation")
    (added,) = set(patients(more, "test")) - set(patients(first, "test"))
    message = f"warning: held out now, though models trained on the former list have learnt from them: {added}.\n"
    assert message in capsys.readouterr().err
    assert patients(run(scans, "--test-count", "0"), "test") == []
    assert "warning: held out by the former list, and learnt from now: p" in capsys.readouterr().err


def test_test_patients_without_labels_stay_test_patients(scans: Path) -> None:
    first = run(scans, "--validation-count", "1", "--labels", "background,organ,tumour")
    unlabeled = first["unlabeled"].pop()
    (scans / "datalist.json").write_text(json.dumps({**first, "test": [unlabeled]}))
    assert run(scans)["test"] == [unlabeled]


def test_a_validation_patient_that_lost_its_label_is_refused(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (name,) = patients(run(scans, "--validation-count", "1"), "validation")
    (scans / f"labels/{name}.nii.gz").unlink()
    message = f"its validation patients stay so, but {name} have no label; put the labels back"
    refused(capsys, message, "--dataset-dir", str(scans), "--force")


def test_held_out_patients_under_other_names_are_refused() -> None:
    with pytest.raises(DataError, match=r"former\.json: its held-out patients stay .* does not have q; check"):
        split_patients(NAMES, NAMES, SplitRequest(kept=kept(["p1"], ["q"])))


def test_tuning_patients_are_drawn_from_the_former_validation_patients_first() -> None:
    found = split_patients(NAMES, NAMES, SplitRequest(labeled_count=2, tuning_count=2, kept=kept(["p7"], ["p3"])))
    assert found["test"] == ["p3"]
    assert "p7" in found["validation"]
    assert len(found["validation"]) == 2


def test_names_given_before_the_first_label_find_their_values(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"images/p{i}.nii.gz", i)
    run(tmp_path, "--labels", "background,organ")
    mask = np.where(np.arange(120).reshape(6, 5, 4) % 7, 0, 255).astype(np.uint8)
    (tmp_path / "labels").mkdir()
    nib.save(nib.Nifti1Image(mask, np.diag([2.0, 2.0, 5.0, 1.0])), tmp_path / "labels/p0.nii.gz")
    found = run(tmp_path)
    assert found["labels"] == {"0": "background", "1": "organ"}
    assert found["label_values"] == [0, 255]


def test_a_file_that_is_no_datalist_is_replaced_with_a_warning(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scans / "datalist.json").write_text("precious")
    assert len(run(scans, "--test-count", "1")["test"]) == 1
    assert "datalist.json held out is not kept, as it cannot be read: " in capsys.readouterr().err


def test_patients_that_folders_hold_out_stay_so_beside_those_that_were_drawn(tmp_path: Path) -> None:
    for part, names in (("train", NAMES[:6]), ("test", NAMES[6:8])):
        for place, name in enumerate(names):
            save(tmp_path / part / f"images/{name}.nii.gz", place)
            save(tmp_path / part / f"labels/{name}.nii.gz", place, classes=2)
    first = run(tmp_path, "--validation-count", "2")
    assert patients(first, "test") == NAMES[6:8]
    second = run(tmp_path)
    assert [patients(second, split) for split in ("validation", "test")] == [
        patients(first, split) for split in ("validation", "test")
    ]
