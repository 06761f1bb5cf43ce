"""``vqseg segment FOLDER --watch`` segments what ``vqseg segment FOLDER`` does, once it is complete."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from support.bundle_runs import Trained, make_volumes
from support.data_parts import write_dicom
from support.processes import folder_held

from vqseg_bundle.commands import watch as watching
from vqseg_bundle.commands.arrived_volumes import sort_arrivals
from vqseg_bundle.commands.watch import State, arrivals, changed, watch
from vqseg_bundle.data import list_volumes

Step = Callable[[], Any]
Found = list[tuple[str, list[str], str]]


def write(path: Path, seed: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(make_volumes(seed)[0], path)


class Look:
    """Looks at a folder as the command does, without segmenting."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.list_cases = folder, partial(list_volumes, **options)
        self.seen: dict[Path, State] = {}
        self.done: dict[Path, State] = {}
        self.segmented: set[frozenset[Path]] = set()

    def __call__(self) -> Found:
        """The next look: names, images and refusals, by their beginning."""
        self.seen, ready = arrivals(self.folder, self.seen, self.done)
        if not ready:
            return []
        again = changed(ready, self.done)
        found = sort_arrivals(self.folder, ready, self.seen.keys() - ready, self.segmented, self.list_cases, again)
        self.done |= {path.resolve(): self.seen[path] for path in found.entries}
        return [
            (path.name, [case["image"].replace(str(self.folder), "in") for case in cases], refusal[:8])
            for path, cases, refusal in found.arrivals
        ]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    (tmp_path / "in").mkdir()
    return Look(tmp_path / "in")


def test_labels_predictions_previews_and_links_are_left_out(look: Look) -> None:
    for name in ("x", "x_seg", "x_pred", "labels/x", "masks/x", "p1/ct", "p1/ct_gt", "p1/labels/ct"):
        write(look.folder / f"{name}.nii.gz")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(look.folder / "x.png")
    (look.folder / "link.nii.gz").symlink_to("x.nii.gz")
    (look.folder / "notes.txt").write_text("none")
    assert look() == []
    refused = [(name, [], "left out") for name in ("labels", "link.nii.gz", "masks")]
    refused += [("notes.txt", [], "dataset_")]
    chosen = [("p1", ["in/p1/ct.nii.gz"], ""), ("x.nii.gz", ["in/x.nii.gz"], "")]
    refused += [(name, [], "left out") for name in ("x.png", "x_pred.nii.gz", "x_seg.nii.gz")]
    assert look() == sorted([*refused, *chosen])
    assert look() == []
    write(look.folder / "y_seg.nii.gz")
    write(look.folder / "y.nii.gz")
    assert [look(), look()] == [[], [("y.nii.gz", ["in/y.nii.gz"], ""), ("y_seg.nii.gz", [], "left out")]]


def test_a_folder_without_volumes_names_what_lies_there(look: Look) -> None:
    (look.folder / "notes.txt").write_text("none")
    write(look.folder / "labels" / "x.nii.gz")
    assert [look(), look(), look()] == [[], [("labels", [], "left out"), ("notes.txt", [], "dataset_")], []]


def test_loose_slices_are_one_volume_once_none_of_them_changes(look: Look) -> None:
    files = write_dicom(look.folder, make_volumes(9)[0].get_fdata())
    last = files[-1].read_bytes()
    files[-1].unlink()
    files[-2].write_bytes(b"")
    write(look.folder / "x.nii.gz")
    assert look() == []
    files[-2].write_bytes(last)
    assert look() == [("x.nii.gz", ["in/x.nii.gz"], "")]
    assert look() == [("in", ["in"], "")]
    assert [look(), look()] == [[], []]


def test_a_series_with_more_slices_comes_again(look: Look) -> None:
    files = write_dicom(look.folder, make_volumes(9)[0].get_fdata())
    other = write_dicom(look.folder / "later", make_volumes(8)[0].get_fdata())
    late = {file: file.read_bytes() for file in files[2:]}
    for file in late:
        file.unlink()
    assert [look(), look()] == [[], [("in", ["in"], ""), ("later", ["in/later"], "")]]
    for file, content in late.items():
        file.write_bytes(content)
    assert [look(), look(), look()] == [[], [("in", ["in"], "")], []]
    # the first series has another path beside a second one, and is the same
    for file in other:
        file.rename(look.folder / f"other_{file.name}")
    assert look() == []
    ((name, (image,), refusal),) = look()
    assert (name, image[:3], refusal) == ("in", "in#", "")


def test_a_folder_whose_slices_arrive_slowly_comes_again(look: Look) -> None:
    files = write_dicom(look.folder / "ser", make_volumes(9)[0].get_fdata())
    late = {file: file.read_bytes() for file in files[2:]}
    for file in late:
        file.unlink()
    write(look.folder / "x.nii.gz")
    everything = [("ser", ["in/ser"], ""), ("x.nii.gz", ["in/x.nii.gz"], "")]
    assert [look(), look(), look()] == [[], everything, []]
    for file, content in late.items():
        file.write_bytes(content)
        assert look() == []
    assert [look(), look(), look()] == [[("ser", ["in/ser"], "")], [], []]


def test_a_file_that_was_cut_comes_again_when_it_is_whole(look: Look) -> None:
    place = look.folder / "a.nii.gz"
    write(place)
    whole = place.read_bytes()
    place.write_bytes(whole[: len(whole) // 2])
    again = [("a.nii.gz", ["in/a.nii.gz"], "")]
    assert [look(), look(), look()] == [[], again, []]
    place.write_bytes(whole)
    assert [look(), look(), look()] == [[], again, []]


def test_a_slice_that_was_cut_brings_its_series_again(look: Look) -> None:
    files = write_dicom(look.folder, make_volumes(9)[0].get_fdata())
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[:-20])
    assert [look(), look(), look()] == [[], [("in", ["in"], "")], []]
    files[2].write_bytes(whole)
    assert [look(), look(), look()] == [[], [("in", ["in"], "")], []]


def test_a_folder_that_gets_a_second_volume_comes_again(look: Look) -> None:
    write(look.folder / "p1" / "a.nii.gz")
    (look.folder / "link").symlink_to("p1")
    first = [("link", [], "left out"), ("p1", ["in/p1/a.nii.gz"], "")]
    assert [look(), look(), look()] == [[], first, []]
    write(look.folder / "p1" / "b.nii.gz", 8)
    both = [("link", [], "left out"), ("p1", ["in/p1/a.nii.gz", "in/p1/b.nii.gz"], "")]
    assert [look(), look(), look()] == [[], both, []]


def test_files_of_one_volume_are_waited_for(look: Look) -> None:
    header = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\n"
    (look.folder / "x.mhd").write_text(f"{header}ElementDataFile = x.raw\n")
    (look.folder / "x.raw").write_bytes(b"1234")
    assert look() == []
    (look.folder / "x.raw").write_bytes(b"12345678")
    assert [look(), look(), look()] == [[], [("x.mhd", ["in/x.mhd"], "")], []]


def test_channels_in_files_of_their_own_are_one_volume(look: Look) -> None:
    channels = Look(look.folder, in_channels=2)
    for number in (0, 1):
        write(look.folder / f"x_000{number}.nii.gz", number)
    channels()
    ((name, images, refusal),) = channels()
    assert (name, refusal) == ("x_0000.nii.gz", "")
    assert images == ["in/x_0000.nii.gz|in/x_0001.nii.gz"]
    assert channels() == []


def test_a_file_that_goes_while_it_is_looked_at_does_not_end_the_watch(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(look.folder / "p1" / "x.nii.gz")
    monkeypatch.setattr(Path, "rglob", mock.Mock(side_effect=FileNotFoundError))
    assert [look(), look()] == [[], []]
    monkeypatch.undo()
    assert [look(), look()] == [[], [("p1", ["in/p1/x.nii.gz"], "")]]


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
