"""The last lines of a command, and what they leave in its record."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from vqseg_bundle.bundle import close_evaluation, close_inference, close_training
from vqseg_bundle.data import Cohort

STARTED = "2026-11-30T12:00:00+00:00"
CASE = {"image": "/scans/images/a.nii.gz", "label": "/scans/labels/a.nii.gz"}


def write(path: Path, **content: Any) -> None:
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "settings, evaluated, segmented",
    [
        ({}, "", ""),
        ({"allow_outside_files": True}, " --allow_outside_files true", ""),
        ({"uneven_slices": "accept"}, " --uneven_slices accept", " --uneven_slices accept"),
    ],
)
def test_the_next_commands_accept_what_the_training_was_told_to_accept(
    tmp_path: Path, settings: dict[str, Any], evaluated: str, segmented: str
) -> None:
    write(tmp_path / "run.json", started=STARTED)
    parser = ConfigParser(
        {"dataset_dir": "/scans", "allow_outside_files": False, "uneven_slices": "refuse", **settings}
    )
    close_training(
        str(tmp_path), Cohort("scans", {0: "background", 1: "organ"}, test=[CASE]), None, False, False, parser
    )
    evaluate, segment, _ = json.loads((tmp_path / "run.json").read_text())["next"]
    assert evaluate.endswith(f"vqseg evaluate --dataset_dir /scans --output_dir {tmp_path}{evaluated}")
    assert segment.endswith(f"vqseg segment /scans/images/a.nii.gz --output_dir {tmp_path}{segmented}")


@pytest.mark.parametrize(
    "images, place",
    [
        (["/scans/p/x_flair.nii|/scans/p/x_t1.nii|/scans/p/x_t1ce.nii|/scans/p/x_t2.nii"], "/scans/p"),
        (["/scans/images/a_0000.nii.gz|/scans/images/a_0001.nii.gz"], "/scans/images"),
        # inference would not stack these as the training did
        (["/scans/a_0001.nii.gz|/scans/a_0000.nii.gz", "/scans/t1/a.nii|/scans/t2/a.nii"], ""),
        (["/scans/t1/a.nii|/scans/t2/a.nii", "/scans/b_0000.nii|/scans/b_0001.nii"], "/scans"),
        (["/scans/dicom#1.2.3&uneven"], "/scans/dicom"),
    ],
)
def test_the_next_command_names_where_inference_finds_a_case(tmp_path: Path, images: list[str], place: str) -> None:
    write(tmp_path / "run.json", started=STARTED)
    cohort = Cohort("scans", {0: "background", 1: "organ"}, unlabeled=[{"image": image} for image in images])
    close_training(str(tmp_path), cohort, None, False, False, ConfigParser({"dataset_dir": "/scans"}))
    *segment, bundle = json.loads((tmp_path / "run.json").read_text())["next"]
    assert " bundle --run " in bundle
    assert [command.partition(" segment ")[2] for command in segment] == (
        [f"{place} --output_dir {tmp_path}"] if place else []
    )


@pytest.mark.parametrize(
    ("output_dir", "bundle"), [("out", "out_bundle"), (".", "{here}_bundle"), ("..", "{above}_bundle")]
)
def test_the_bundle_is_named_after_the_folder_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output_dir: str, bundle: str
) -> None:
    here = tmp_path / "study" / "here"
    (here / "out").mkdir(parents=True)
    monkeypatch.chdir(here)
    write(Path(output_dir) / "run.json", started=STARTED)
    cohort = Cohort("scans", {0: "background", 1: "organ"})
    close_training(output_dir, cohort, None, False, False, ConfigParser({"dataset_dir": "/scans"}))
    (command,) = json.loads((Path(output_dir) / "run.json").read_text())["next"]
    expected = bundle.format(here=here, above=here.parent)
    assert command.endswith(f"vqseg bundle --run {output_dir} --output {expected}")


@pytest.mark.parametrize("finished", ["run.json", "resumed_run.json"])
def test_an_evaluation_goes_on_with_the_commands_of_the_process_that_finished_the_training(
    tmp_path: Path, finished: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "run.json", started=STARTED)
    write(tmp_path / "resumed_run.json", started=STARTED)
    write(tmp_path / finished, started=STARTED, next=["vqseg evaluate", "vqseg segment A"])
    (tmp_path / "model.pt").write_bytes(b"weights")
    write(tmp_path / "evaluation_run.json", started=STARTED)
    write(tmp_path / "summary.json", num_cases=1, overall={"dice": {"mean": 0.5}})
    with caplog.at_level("INFO"):
        close_evaluation(str(tmp_path), str(tmp_path / "model.pt"))
    assert caplog.messages[0].startswith("evaluated 1 case in ")
    assert json.loads((tmp_path / "evaluation_run.json").read_text())["next"] == ["vqseg segment A"]


def test_commands_typed_elsewhere_go_to_where_their_paths_lead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Paths in commands are relative to where the training ran; where that is gone, none can be typed."""
    run = tmp_path / "there it is" / "OUT"
    run.mkdir(parents=True)
    write(run / "run.json", started=STARTED)
    monkeypatch.chdir(run.parent)
    cohort = Cohort("scans", {0: "background", 1: "organ"}, test=[CASE])
    close_training("OUT", cohort, None, False, False, ConfigParser({"dataset_dir": "scans"}))
    found = {}
    for place in (run.parent, tmp_path):
        monkeypatch.chdir(place)
        caplog.clear()
        with caplog.at_level("INFO"):
            close_inference(str(tmp_path / "predictions"), [CASE], str(run / "model.pt"), [])
        found[place] = [message for message in caplog.messages if message.startswith("next: ")]
    first, *_ = found[run.parent]
    assert first.endswith("vqseg evaluate --dataset_dir scans --output_dir OUT")
    assert found[tmp_path] == [line.replace("next: ", f"next: cd '{run.parent}' && ") for line in found[run.parent]]
    record = json.loads((run / "run.json").read_text())
    write(run / "run.json", **{**record, "directory": str(tmp_path / "gone")})
    caplog.clear()
    with caplog.at_level("INFO"):
        close_inference(str(tmp_path / "predictions"), [CASE], str(run / "model.pt"), [])
    assert "next: " not in caplog.text


@pytest.mark.parametrize("there", ["/shut/study", 1, None, ["/"], "nul\0"])
def test_no_command_follows_where_the_recorded_folder_cannot_be_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, there: Any
) -> None:
    """Such as one below /root, of a training in a container."""
    write(tmp_path / "run.json", started=STARTED, next=["vqseg segment A"], directory=there)
    stat = os.stat

    def shut(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith("/shut"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", shut)
    with caplog.at_level("INFO"):
        close_inference(str(tmp_path / "predictions"), [CASE], str(tmp_path / "model.pt"), [])
    assert caplog.messages == [f"segmented 1 volume: {tmp_path / 'predictions'}"]
