"""``vqseg segment FOLDER --watch`` takes what ``vqseg segment FOLDER`` does, once it is complete."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from support.bundle_runs import make_volumes
from support.data_parts import write_dicom

from vqseg_bundle.commands.arrived_volumes import sort_arrivals
from vqseg_bundle.commands.watch import State, arrivals, changed
from vqseg_bundle.data import list_volumes

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
