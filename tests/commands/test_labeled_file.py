"""Patients that ``vqseg choose`` names train: ``vqseg data --labeled-file``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vqseg_bundle.data import DataError, LabeledFile, SplitRequest, read_labeled_file, split_patients


def test_patients_named_for_labelling_train_and_leave_the_held_out_ones_as_they_were() -> None:
    names = [f"p{i}" for i in range(10)]
    drawn = split_patients(names, names, SplitRequest(labeled_count=2, validation_count=2, test_count=3))
    free = [name for name in names if name not in drawn["validation"] + drawn["test"]]
    chosen = SplitRequest(labeled_file=LabeledFile("c.json", free[::-1][:2]), validation_count=2, test_count=3)
    found = split_patients(names, names, chosen)
    assert found == {**drawn, "training": sorted(free[-2:]), "unlabeled": free[:-2]}
    held_out = drawn["test"][0]
    moved = split_patients(names, names, SplitRequest(labeled_file=LabeledFile("c.json", [held_out]), test_count=3))
    assert moved["training"] == [held_out]
    assert held_out not in moved["test"]
    assert len(moved["test"]) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"chosen": ["p0", "q"]}, r"expected patients of the folder that are not held out, found q; check the folder"),
        (
            {"chosen": ["p0"], "labeled": ["p9"]},
            r"expected a label for each of its 2 patients, found none for p9",
        ),
        ({"chosen": []}, r'c\.json: expected the lists of patients "chosen" and "labeled" of vqseg choose'),
        ({"chosen": [3]}, r'c\.json: expected the lists of patients "chosen" and "labeled" of vqseg choose'),
        ({"chosen": ["p0"], "held_out": ["p1"]}, r'c\.json: expected "held_out" with lists of patients under "valid'),
        ({"chosen": ["p0"], "held_out": {"test": "p1"}}, r'c\.json: expected "held_out" with lists of patients'),
        ({"chosen": ["p0"], "labels": "ab"}, r'c\.json: .* a list of names under "labels"'),
        ({"chosen": ["p0"], "label_values": ["1"]}, r'c\.json: .* whole numbers under "label_values"'),
    ],
)
def test_a_labeled_file_that_does_not_fit_is_refused(tmp_path: Path, content: dict, message: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps(content))
    names = [f"p{i}" for i in range(10)]
    with pytest.raises(DataError, match=rf"--labeled-file .*{message}"):
        split_patients(names, names[:9], SplitRequest(labeled_file=read_labeled_file(file)))
