"""A new training on other data that begins with trained weights: it keeps their network, preprocessing and classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.bundle_runs import TINY, Trained, make_volumes, refused, run_here, write_cohort
from torch.nn import Module

from vqseg_bundle.bundle import check_continuation
from vqseg_bundle.data import Cohort

#: no sizes: they follow from the weights' record
KEYS: dict[str, Any] = {
    **{key: value for key, value in TINY.items() if key.startswith("network_def#num") or key.endswith("embedding_dim")},
    "device": "cpu",
    "amp": False,
}


def test_it_begins_with_the_weights_and_keeps_what_they_need(trained: Trained, tmp_path: Path) -> None:
    cohort, given = write_cohort(tmp_path / "other"), tmp_path / "given" / "model.pt"
    shutil.copytree(trained.output_dir, given.parent)
    record = json.loads((given.parent / "model.json").read_text())
    record["info"]["channel_names"] = ["T1"]  # those of files without names are the weights'
    (given.parent / "model.json").write_text(json.dumps(record))
    cohort.add("training", "larger", *make_volumes(9, (64, 48, 5)))
    cohort.save()
    keys = {**KEYS, "dataset_dir": str(cohort.root), "initial_weights": str(given), "max_iterations": 1}
    run_here("training", "train.json", **keys, output_dir=str(tmp_path / "out"), learning_rate=1e-9)
    first, last = (torch.load(path, weights_only=True) for path in (given, tmp_path / "out" / "model.pt"))
    assert first.keys() == last.keys()
    floats = [name for name, value in first.items() if value.is_floating_point() and "quantizer" not in name]
    assert max(float((first[name] - last[name]).abs().max()) for name in floats) < 1e-6
    records = [json.loads((folder / "model.json").read_text()) for folder in (given.parent, tmp_path / "out")]
    assert records[1]["info"]["channel_names"] == ["T1"]
    assert [records[0][key] for key in ("network", "preprocessing")] == [
        records[1][key] for key in ("network", "preprocessing")
    ]


def test_weights_that_do_not_fit_are_refused(trained: Trained, tmp_path: Path) -> None:
    cohort, given = write_cohort(tmp_path / "other"), str(trained.output_dir / "model.pt")
    start = ("training", "train.json")
    keys = {**KEYS, "dataset_dir": str(cohort.root), "initial_weights": given}
    refused(tmp_path / "out", r"labels#1: weights shell, configuration lung", *start, **_with_other_label(cohort, keys))
    other = {**keys, "dataset_dir": str(trained.cohort.root), "network_def#num_embeddings": 64}
    refused(tmp_path / "out", r"network#num_embeddings: weights 32, configuration 64", *start, **other)
    refused(
        tmp_path / "out",
        r"none\.json not found: none\.pt cannot be used",
        *start,
        **{**keys, "initial_weights": "none.pt"},
    )


def test_weights_in_place_win_over_those_to_begin_with(trained: Trained, tmp_path: Path) -> None:
    """A bundle's own weights are trained further, whatever its configuration names besides."""
    given = {"initial_weights": str(trained.output_dir / "model.pt"), "another_length": False}
    cohort = Cohort("scans", {0: "background"})
    message = rf"^{tmp_path}/model\.json not found: model\.pt cannot be used without the record"
    with pytest.raises(SystemExit, match=message):
        check_continuation(str(tmp_path), False, True, {}, Module(), cohort, (1, 1), **given)


def test_weights_of_channels_in_another_order_are_refused(trained: Trained, tmp_path: Path) -> None:
    record = json.loads((trained.output_dir / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**record, "info": {"channel_names": ["T1", "T2"]}}))
    cohort = Cohort("scans", {0: "background"}, channel_names=("T2", "T1"))
    initial = {"initial_weights": str(tmp_path / "model.pt"), "another_length": False}
    with pytest.raises(SystemExit, match="trained on channels T1, T2, here they are in the order T2, T1"):
        check_continuation(str(tmp_path / "out"), False, False, {}, Module(), cohort, (1, 1), **initial)


def _with_other_label(cohort: Any, keys: dict[str, Any]) -> dict[str, Any]:
    cohort.datalist["labels"] |= {"1": "lung"}
    cohort.save()
    return keys
