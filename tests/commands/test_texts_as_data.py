"""Texts from a model's record stay texts in a made bundle: MONAI evaluates, looks up or reads none of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from support.bundle_runs import Trained, run_here

from vqseg_bundle.commands import bundle as make_bundle
from vqseg_bundle.commands.deploying.bundle_configs import literal

#: what MONAI evaluates, looks up or reads; the first would leave a file
HOSTILE = [
    "$__import__('pathlib').Path('{trace}').touch()",
    "@lesion",
    "$10",
    "%tumour",
    "%models/model.json#labels",
    "a@#b",
    "a%##b",
    "$import os",
    "' + str(@labels) + '",
    "\\@x",
    "ä\n\"'",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_literal_is_the_value_itself(text: str, tmp_path: Path) -> None:
    text = text.format(trace=tmp_path / "trace")
    value = {"labels": {1: text, 2: "plain"}, "sizes": [1, 2.5, None, True], text: [text]}
    config = json.loads(json.dumps({"labels": 5, "x": 1, "value": literal(value), "text": literal(text)}))
    parser = ConfigParser(config)
    parser.parse(reset=True)
    assert parser.get_parsed_content("value") == value
    assert parser.get_parsed_content("text") == text
    assert not (tmp_path / "trace").exists()


def test_plain_values_stay_readable() -> None:
    assert [literal(value) for value in (None, True, 3, 0.5)] == [None, True, 3, 0.5]


def test_a_bundle_of_a_hostile_record_runs_nothing_of_it(evaluated: Trained, tmp_path: Path) -> None:
    run, bundle, trace = tmp_path / "run", tmp_path / "bundle", tmp_path / "trace"
    shutil.copytree(evaluated.output_dir, run)
    record = json.loads((run / "model.json").read_text())
    code = HOSTILE[0].format(trace=trace)
    record["labels"] = {"0": "%tumour", "1": "@lesion", "2": code}
    record["info"] |= {"cohort": "%cohort", "note": code}
    (run / "model.json").write_text(json.dumps(record))
    make_bundle.main(["--run", str(run), "--output", str(bundle)])
    volume = evaluated.cohort.root / "images" / "case_5.nii.gz"
    where = {"bundle_root": str(bundle), "dataset_dir": str(volume), "output_dir": str(tmp_path / "out")}
    metadata = str(bundle / "configs" / "metadata.json")
    parser = run_here("inference", bundle / "configs" / "inference.json", **where, meta_file=metadata, device="cpu")
    expected = (evaluated.output_dir / "predictions" / "case_5_pred.nii.gz").read_bytes()
    assert (tmp_path / "out" / "predictions" / "case_5_pred.nii.gz").read_bytes() == expected
    assert parser.get_parsed_content("model_record")["labels"] == {0: "%tumour", 1: "@lesion", 2: code}
    assert parser.get_parsed_content("untrained")["labels"][1] == "@lesion"
    parser.get_parsed_content("_meta_")
    training = ConfigParser.load_config_file(bundle / "configs" / "train.json")
    assert ConfigParser({"labels": training["labels"]}).get_parsed_content("labels")[1] == "@lesion"
    assert not trace.exists()
