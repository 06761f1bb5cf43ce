"""An evaluation says which of its patients the weights have learnt from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.bundle_runs import CohortFolder, Trained, run_here

from vqseg_bundle.bundle.records.learnt_patients import learnt_patients, warn_of_learnt

CASES = [{"patient": name} for name in ("p1", "p2", "p2")]


def test_patients_of_all_trainings_behind_the_weights_are_known_without_their_names(tmp_path: Path) -> None:
    first = learnt_patients([{"patient": "p0"}])
    (tmp_path / "run.json").write_text(json.dumps({"learnt_from": first}))
    marks = learnt_patients(CASES, tmp_path, None)
    assert len(marks) == 3
    assert set(first) < set(marks)
    assert all(len(mark) == 16 for mark in marks)
    (tmp_path / "run.json").write_text(json.dumps({"learnt_from": marks}))
    (found,) = warn_of_learnt([{"patient": name} for name in ("p0", "p2", "p3")], tmp_path / "model.pt")
    assert found.startswith(
        f"2 of 3 patients have names of those that {tmp_path}/model.pt has learnt from: p0, p2. If "
    )
    assert warn_of_learnt([{"patient": "p3"}], tmp_path / "model.pt") == []


@pytest.mark.parametrize("content", [None, "", "[]", '{"learnt_from": 3}', "{}"])
def test_a_record_without_patients_gives_no_warning(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert warn_of_learnt(CASES, tmp_path / "model.pt") == []


def test_an_evaluation_on_a_patient_that_was_trained_on_is_warned_of(
    trained: Trained, shared_cohort: CohortFolder, tmp_path: Path
) -> None:
    content = shared_cohort.datalist
    (tmp_path / "other.json").write_text(
        json.dumps({**content, "training": content["training"][1:], "test": content["training"][:1]})
    )
    places = {"dataset_dir": str(shared_cohort.root), "datalist": str(tmp_path / "other.json")}
    weights = {"checkpoint": str(trained.output_dir / "model.pt"), "output_dir": str(tmp_path / "out")}
    run_here("evaluating", "train.json", "evaluate.json", **places, **weights)
    assert "1 of 1 patients have names of those that" in (tmp_path / "out" / "evaluation.log").read_text()
