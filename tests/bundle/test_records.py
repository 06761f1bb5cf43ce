from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vqseg_bundle import __version__
from vqseg_bundle.bundle import (
    check_compatible,
    check_writable,
    find_checkpoint,
    load_model_record,
    prediction_folder,
    prepare_output_dir,
    write_model_record,
    write_run_record,
)
from vqseg_bundle.bundle.records.model_record import check_files_hold

NETWORK: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "channels": (16, 32)}
LABELS = {0: "background", 10: "apex", 2: "rim"}
PREPROCESSING: dict[str, Any] = {"slice_axis": 2, "patch_size": [128, 128], "spacing": None}


def write_record(folder: Path, name: str = "model.json") -> Path:
    write_model_record(folder / name, NETWORK, LABELS, PREPROCESSING, {"val_mean_dice": np.float32(0.5)})
    return folder / name


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_model_record_survives_the_round_trip(tmp_path: Path) -> None:
    write_record(tmp_path)
    record = load_model_record(tmp_path / "model.pt")
    assert record["network"] == {**NETWORK, "channels": [16, 32]}
    assert record["labels"] == LABELS
    assert list(record["labels"]) == [0, 2, 10]
    assert record["preprocessing"] == PREPROCESSING
    assert record["info"] == {"val_mean_dice": 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]


def test_label_indices_may_be_text_as_in_a_datalist(tmp_path: Path) -> None:
    write_model_record(tmp_path / "best.json", NETWORK, {"0": "background", "1": "organ"}, {}, {})
    assert load_model_record(tmp_path / "best.pt")["labels"] == {0: "background", 1: "organ"}


def test_a_failed_write_leaves_the_former_record(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    before = path.read_text()
    with pytest.raises(ValueError, match=r"cannot write .*model\.json: Out of range float"):
        write_model_record(path, NETWORK, LABELS, PREPROCESSING, {"score": float("nan")})
    with pytest.raises(ValueError, match=r"Tensor .* has no JSON form"):
        write_model_record(path, {"weight": torch.zeros(1)}, LABELS, PREPROCESSING, {})
    with pytest.raises(ValueError, match=r"labels must map whole numbers to class names, got {'organ': 'x'}"):
        write_model_record(path, NETWORK, {"organ": "x"}, PREPROCESSING, {})
    assert path.read_text() == before
    assert [item.name for item in tmp_path.iterdir()] == ["model.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "key 'schema_version' must be 1, got 99"),
        ({"network": None}, "key 'network' must hold a JSON object, got None"),
        ({"labels": {"one": "organ"}}, "key 'labels' must map whole numbers to class names, got {'one': 'organ'}"),
    ],
)
def test_a_broken_record_is_refused_by_file_and_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_record(tmp_path)
    edit(path, **changes)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {message}"):
        load_model_record(tmp_path / "model.pt")


def test_a_missing_or_unreadable_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.json not found: model\.pt cannot be used without the record"):
        load_model_record(tmp_path / "model.pt")
    (tmp_path / "model.json").write_text('{"network": ')
    with pytest.raises(ValueError, match=r"model\.json is not valid JSON"):
        load_model_record(tmp_path / "model.pt")
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(ValueError, match=r"model\.json must hold a JSON object, got list"):
        load_model_record(tmp_path / "model.pt")


def test_a_fitting_pair_is_accepted_and_a_wrong_one_named_key_by_key(tmp_path: Path) -> None:
    record = load_model_record(write_record(tmp_path))
    check_compatible(record, network=NETWORK, labels={str(index): name for index, name in LABELS.items()})
    other = {**NETWORK, "channels": [16, 64], "dropout": 0.1}
    with pytest.raises(ValueError, match="does not fit the configuration") as caught:
        check_compatible(record, network=other, labels={0: "background", 2: "border"})
    lines = str(caught.value).splitlines()[1:-1]
    assert lines == [
        "  network#channels: weights [16, 32], configuration [16, 64]",
        "  network#dropout: weights (not given), configuration 0.1",
        "  labels#2: weights rim, configuration border",
        "  labels#10: weights apex, configuration (not given)",
    ]
    with pytest.raises(ValueError, match="section must be one of network, labels, preprocessing, info, got 'net'"):
        check_compatible(record, net={})


@pytest.mark.parametrize(
    ("trained", "given", "refusal"),
    [
        ("T1,T1ce,T2,FLAIR", "FLAIR,T1,T1 with contrast,T2", "T1, T1ce, T2, FLAIR, here they are in the order FLAIR"),
        ("T1,T1ce", "T1,T2", "trained on channels T1, T1ce, here they are T1, T2; list the same files of each image"),
        ("T1,ADC", "FLAIR,DWI", "trained on channels T1, ADC, here they are FLAIR, DWI; list the same files"),
        ("a,b", "b,a", "trained on channels a, b, here they are in the order b, a; list"),
        ("FLAIR,T1w,t1gd,T2w", "FLAIR,T1,T1 with contrast,T2", ""),
        ("T1", "FLAIR", ""),
        ("T1,T2", "", ""),
        ("", "T1,T2", ""),
    ],
)
def test_channels_are_compared_by_what_their_names_mean(
    trained: str, given: str, refusal: str, caplog: pytest.LogCaptureFixture
) -> None:
    record = {"info": {"channel_names": trained.split(",")} if trained else {}}
    names = given.split(",") if given else []
    if refusal:
        with pytest.raises(ValueError, match=refusal):
            check_files_hold(record, names)
    else:
        check_files_hold(record, names)
    assert caplog.messages == []


def test_channels_of_unknown_names_are_accepted_and_both_lists_logged(caplog: pytest.LogCaptureFixture) -> None:
    check_files_hold({"info": {"channel_names": ["T1", "ADC"]}}, ["t1n", "T2"])
    assert caplog.messages == [
        "channel_names: the weights were trained on channels T1, ADC, here they are called t1n, T2; see that each is "
        "the same."
    ]


def test_the_checkpoint_is_the_named_one_then_the_runs_then_the_bundles(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, out, named = tmp_path / "bundle", tmp_path / "out", tmp_path / "named.pt"
    bundled = root / "models" / "model.pt"
    for path in (named, out / "model.pt", bundled):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with caplog.at_level(logging.INFO):
        assert find_checkpoint(str(named), str(out), str(root)) == named
        assert find_checkpoint(None, str(out), str(root)) == out / "model.pt"
        assert find_checkpoint(None, str(tmp_path / "empty"), str(root)) == bundled
        assert find_checkpoint(None, None, str(root)) == bundled
    assert [record.message.rpartition("(")[2] for record in caplog.records] == [
        "key checkpoint)",
        "found by key output_dir)",
        f"found by key bundle_root, as {tmp_path / 'empty'} has no model.pt)",
        "found by key bundle_root)",
    ]
    trained = root / "runs" / "train" / "model.pt"
    trained.parent.mkdir(parents=True)
    trained.touch()
    assert find_checkpoint(None, None, str(root), own_training=True) == trained
    assert find_checkpoint(None, str(tmp_path / "empty"), str(root), own_training=True) == bundled
    caplog.clear()
    assert find_checkpoint(None, None, str(root)) == bundled
    assert (
        f"{trained}, of a training without output_dir, is not what is used; for that give --output_dir" in caplog.text
    )
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "resume.pt").touch()
    with pytest.raises(FileNotFoundError, match=r"output_dir .*begun: its training was interrupted before .* --resume"):
        find_checkpoint(None, str(tmp_path / "begun"), str(root))
    bundled.unlink()
    with pytest.raises(FileNotFoundError, match=r"no trained weights found at .*empty/model\.pt or .*: train first"):
        find_checkpoint(None, str(tmp_path / "empty"), str(root))
    with pytest.raises(FileNotFoundError, match=r"checkpoint 'missing\.pt' is not a file"):
        find_checkpoint("missing.pt", str(out), str(root))


@pytest.mark.parametrize(
    ("kind", "found"), [("folder", "a folder; put"), ("link", r"a link that leads nowhere \(gone\.pt\); put the file")]
)
def test_what_stands_in_the_weights_place_is_named(tmp_path: Path, kind: str, found: str) -> None:
    (tmp_path / "out").mkdir()
    place = tmp_path / "out/model.pt"
    if kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("gone.pt")
    with pytest.raises(FileNotFoundError, match=rf"out/model\.pt: expected a file of weights, found {found}"):
        find_checkpoint(None, str(tmp_path / "out"), str(tmp_path))


def test_an_output_dir_that_is_or_lies_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output_dir in (tmp_path / "file", tmp_path / "file" / "deeper" / "still"):
        with pytest.raises(ValueError, match=f"output_dir '{output_dir}' is not writable: .*file is a file"):
            check_writable(output_dir)
    check_writable(tmp_path / "new" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_output_dir_that_cannot_be_written_to_is_refused() -> None:
    # no user, root included, can make a file there
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc on this system")
    with pytest.raises(ValueError, match=r"output_dir '/proc/self/out' is not writable: .* in /proc/self"):
        check_writable("/proc/self/out")


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_an_earlier_run_is_put_aside_and_nothing_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = {"model.pt", "model.json", "resume.pt", "metrics.csv", "summary.json", "training.log", "predictions/a.nii.gz"}
    fill(tmp_path, *run, "notes.txt", "data/image.nii.gz")
    with caplog.at_level(logging.INFO):
        moved = prepare_output_dir(tmp_path, resume=False)
    assert moved is not None
    assert re.fullmatch(r"previous-\d{8}-\d{6}", moved.name)
    assert {str(path.relative_to(moved)) for path in moved.rglob("*") if path.is_file()} == run
    assert (moved / "predictions" / "a.nii.gz").read_text() == "predictions/a.nii.gz"
    assert {path.name for path in tmp_path.iterdir()} == {moved.name, "notes.txt", "data"}
    assert len(caplog.records) == 1
    assert f"now in {moved.name}" in caplog.text
    # a second one in the same second does not mix with the first
    fill(tmp_path, "model.pt")
    again = prepare_output_dir(tmp_path, resume=False)
    assert again not in (None, moved)
    assert (moved / "model.pt").is_file()


def test_resuming_or_a_folder_without_weights_moves_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "out", "model.pt", "train.log")
    assert prepare_output_dir(tmp_path / "out", resume=True) is None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.pt", "train.log"}
    fill(tmp_path / "logs_only", "train.log")
    assert prepare_output_dir(tmp_path / "logs_only", resume=False) is None
    assert prepare_output_dir(tmp_path / "new" / "out", resume=False) is None
    assert (tmp_path / "new" / "out").is_dir()


def test_the_run_record_holds_configuration_versions_and_command(tmp_path: Path) -> None:
    config = {
        "device": torch.device("cpu"),
        "network": "$@network_def.to(@device)",
        "data": [{"image": Path("a.nii.gz")}],
        "patch_size": (128, 128),
        "spacing": None,
        "_meta_": {"version": "9"},
    }
    command = ["/somewhere/site-packages/monai/bundle/__main__.py", "run", "training", "--seed", "1"]
    write_run_record(tmp_path / "out", config, "abc123", command)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {
        "device": "cpu",
        "network": "$@network_def.to(@device)",
        "data": [{"image": "a.nii.gz"}],
        "patch_size": [128, 128],
        "spacing": None,
    }
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["command"] == ["python", "-m", "monai.bundle", "run", "training", "--seed", "1"]
    assert record["data_digest"] == "abc123"
    assert record["versions"]["vqseg_bundle"] == __version__
    assert record["versions"]["torch"] == torch.__version__
    assert set(record["versions"]) >= {"python", "monai", "ignite", "numpy"}
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]", record["started"])
    assert record["git_commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", record["git_commit"])


def test_an_evaluation_keeps_the_record_of_the_training(tmp_path: Path) -> None:
    write_run_record(tmp_path, {"a": 1}, None, ["train"])
    write_run_record(tmp_path, {"a": 2}, None, ["evaluate"], prefix="evaluate_")
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 1}
    assert json.loads((tmp_path / "evaluate_config.json").read_text()) == {"a": 2}
    assert json.loads((tmp_path / "evaluate_run.json").read_text())["command"] == ["evaluate"]


def test_inference_and_evaluation_have_predictions_of_their_own(tmp_path: Path) -> None:
    """The first takes ``predictions/``, whichever it is; the other one a folder of its name, and both go on so."""
    for first, second in (("inference", "evaluation"), ("evaluation", "inference")):
        out = tmp_path / first
        assert prediction_folder(out, first) == str(out / "predictions")
        (out / "predictions").mkdir(parents=True)
        if first == "inference":
            (out / "predictions" / "inference.log").touch()
        assert prediction_folder(out, first) == str(out / "predictions")
        assert prediction_folder(out, second) == str(out / second / "predictions")
    with pytest.raises(ValueError, match='kind must be "evaluation" or "inference", got \'training\''):
        prediction_folder(tmp_path, "training")
