"""The command ``vqseg segment FOLDER --watch`` while volumes arrive: predictions, refusals, what must not end it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import pytest
from support.bundle_runs import Trained, make_volumes
from support.data_parts import write_dicom
from support.processes import folder_held

from vqseg_bundle.commands import watch as watching
from vqseg_bundle.commands.watch import watch

Step = Callable[[], Any]


def write(path: Path, seed: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(make_volumes(seed)[0], path)


@pytest.fixture
def watched(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs the command, with a step before each look but the first, and Ctrl-C after the last one."""
    (tmp_path / "in").mkdir()
    former = signal.getsignal(signal.SIGINT)

    def run(steps: Sequence[Step] = ()) -> None:
        left = [*steps, lambda: None]

        def sleep(_: float) -> None:
            if not left:
                raise KeyboardInterrupt
            left.pop(0)()

        monkeypatch.setattr(watching, "time", mock.Mock(spec=time, sleep=sleep))
        keys = {"checkpoint": str(trained.output_dir / "model.pt"), "device": "cpu"}
        with suppress(KeyboardInterrupt):
            watch({"dataset_dir": str(tmp_path / "in"), "output_dir": str(tmp_path / "out"), **keys})

    yield run
    signal.signal(signal.SIGINT, former)


def test_the_prediction_is_of_the_image_and_not_of_its_label(
    watched: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("labels/x", "x", "x_seg", "z\n12:00 INFO forged")):
        write(tmp_path / "in" / f"{name}.nii.gz", number)
    watched()
    lines = capsys.readouterr().out.splitlines()[1:]
    place = tmp_path / "in"
    assert lines[1] == f"{place / 'x.nii.gz'}: {tmp_path / 'out' / 'predictions'}"
    assert [line.partition(": ")[0] for line in lines] == [
        *(str(place / name) for name in ("labels", "x.nii.gz", "x_seg.nii.gz")),
        rf"{place}/z\n12:00 INFO forged.nii.gz",
    ]
    assert [path.name for path in (tmp_path / "out").rglob("*.nii.gz")] == ["x_pred.nii.gz"]
    found = nib.load(tmp_path / "out" / "predictions" / "x_pred.nii.gz")
    write(tmp_path / "alone" / "x.nii.gz", 1)
    (tmp_path / "in").rename(tmp_path / "before")
    (tmp_path / "alone").rename(tmp_path / "in")
    watched()
    again = nib.load(tmp_path / "out" / "predictions" / "x_pred.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), np.asanyarray(again.dataobj))


def test_slices_that_lie_loose_get_a_prediction(watched: Callable[..., None], tmp_path: Path) -> None:
    write_dicom(tmp_path / "in", make_volumes(9)[0].get_fdata())
    watched([lambda: write(tmp_path / "in" / "$(x).nii.gz"), lambda: None])
    predictions = sorted(path.name for path in (tmp_path / "out" / "predictions").glob("*_pred.nii.gz"))
    assert predictions == ["$(x)_pred.nii.gz", "in_pred.nii.gz"]


def test_a_file_that_is_copied_again_after_a_refusal_gets_a_prediction(
    watched: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "in" / "a.nii.gz"
    write(place)
    whole = place.read_bytes()
    place.write_bytes(whole[: len(whole) // 2])
    watched([lambda: None, lambda: place.write_bytes(whole), lambda: None])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 2
    assert "truncated or unreadable" in lines[0]
    assert lines[1].startswith(f"{place}: {tmp_path / 'out' / 'predictions'}")
    assert [path.name for path in (tmp_path / "out" / "predictions").rglob("*.nii.gz")] == ["a_pred.nii.gz"]


def test_a_folder_that_is_away_for_a_moment_does_not_end_the_watch(
    watched: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, away = tmp_path / "in", tmp_path / "away"
    write(place / "a.nii.gz")
    watched([lambda: place.rename(away), lambda: None, lambda: away.rename(place), lambda: None])
    reason = f"[Errno 2] No such file or directory: '{place}'"
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{place}: cannot be read now, tried again: {reason}",
        f"{place / 'a.nii.gz'}: {tmp_path / 'out' / 'predictions'}",
    ]


def test_too_little_memory_for_one_volume_does_not_end_the_watch(
    watched: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write(tmp_path / "in" / f"{name}.nii.gz")
    segment = mock.Mock(side_effect=[RuntimeError("CUDA out of memory.\nTried 9 GiB"), tmp_path / "out"])
    monkeypatch.setattr(watching.Session, "segment", segment)
    watched()
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{tmp_path / 'in' / 'a.nii.gz'}: CUDA out of memory. Tried 9 GiB",
        f"{tmp_path / 'in' / 'b.nii.gz'}: {tmp_path / 'out'}",
    ]


def test_a_watch_into_a_folder_at_work_is_refused(
    watched: Callable[..., None], trained: Trained, tmp_path: Path
) -> None:
    keys = {"dataset_dir": str(tmp_path / "in"), "output_dir": str(tmp_path / "out"), "checkpoint": "typo.pt"}
    with pytest.raises(SystemExit, match=r"checkpoint 'typo\.pt' is not a file"):
        watch(keys)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out" / "predictions").mkdir(parents=True)
    (tmp_path / "out" / "predictions" / "inference.log").touch()  # an inference's, not an evaluation's
    keys["checkpoint"] = str(trained.output_dir / "model.pt")
    with folder_held(tmp_path / "out", ".inference.lock"), pytest.raises(SystemExit, match="is at work in it"):
        watch(keys)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".inference.lock", "predictions"]


def test_the_prediction_of_a_series_that_goes_on_replaces_the_former_one(
    watched: Callable[..., None], tmp_path: Path
) -> None:
    voxels = make_volumes(9)[0].get_fdata()
    files = write_dicom(tmp_path / "in" / "ser", voxels)
    late = {file: file.read_bytes() for file in files[2:]}
    for file in late:
        file.unlink()

    def arrive() -> None:
        for file, content in late.items():
            file.write_bytes(content)

    write(tmp_path / "in" / "y.nii.gz")
    watched([lambda: None, arrive, lambda: None])
    place = tmp_path / "out" / "predictions"
    assert sorted(path.name for path in place.glob("*_pred.nii.gz")) == ["ser_pred.nii.gz", "y_pred.nii.gz"]
    assert nib.load(place / "ser_pred.nii.gz").shape == voxels.shape
    (former,) = place.glob("previous-*/*")
    assert (former.name, nib.load(former).shape) == ("ser_pred.nii.gz", (*voxels.shape[:2], 2))
