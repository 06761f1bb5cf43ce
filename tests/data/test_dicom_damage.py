"""Broken slices of DICOM series: missed wherever they lie, and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.data_parts import compress_dicom, hounsfield, write_dicom

from vqseg_bundle.data import DataError, list_volumes, read_header, read_voxels

SHAPE = (7, 6, 5)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def cut_in_the_pixels(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def cut_before_the_pixels(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"\xe0\x7f\x10\x00")])


def cut_before_the_size(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"\x28\x00\x10\x00US")])


def cut_at_the_start(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:140])


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(len(file.read_bytes())))


@pytest.mark.parametrize("place", [0, 2, -1])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (emptied, "is empty"),
        (cut_in_the_pixels, "ends after 54 of 84 bytes of pixels"),
        (cut_before_the_pixels, "ends before its pixels"),
        (cut_before_the_size, "ends before its image's size"),
        (cut_at_the_start, "(ends before it says what it holds|cannot be read as DICOM)"),
        (zeroed, "is no DICOM file"),
    ],
)
def test_a_broken_slice_is_missed_wherever_it_lies(
    tmp_path: Path, damage: Callable[[Path], None], message: str, place: int
):
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE))
    write_dicom(tmp_path / "t", hounsfield(SHAPE))
    damage(files[place])
    broken, sound = list_volumes(tmp_path)
    with pytest.raises(DataError, match=rf"s: 1 slice is missing: {files[place].name} {message}.*; copy it again, or"):
        read_header(broken["image"])
    assert read_header(sound["image"]).shape == SHAPE
    with pytest.raises(DataError, match="missing"):
        read_header(list_volumes(tmp_path, uneven_slices="accept")[0]["image"])


@pytest.mark.parametrize("place", [0, 2, -1])
@pytest.mark.parametrize(
    ("tag", "kept"),
    [(b"\x08\x00\x16\x00UI", 17), (b"\x20\x00\x0e\x00UI", 0), (b"\x20\x00\x0e\x00UI", 3)],
    ids=["class", "no series", "part of a series"],
)
def test_a_slice_cut_within_a_uid_is_missed(tmp_path: Path, tag: bytes, kept: int, place: int):
    """The beginning of a UID is neither a report's class nor a series of its own."""
    files = write_dicom(tmp_path / "s", hounsfield(SHAPE), uid="1.2.345.6")
    content = files[place].read_bytes()
    start = content.index(tag) + 8
    files[place].write_bytes(content[: start - 2] + kept.to_bytes(2, "little") + content[start : start + kept])
    (case,) = list_volumes(tmp_path)
    with pytest.raises(DataError, match=rf"s: 1 slice is missing: {files[place].name} ends before"):
        read_header(case["image"])


def test_broken_slices_alone_are_a_volume_that_is_refused(tmp_path: Path):
    (tmp_path / "s").mkdir()
    for index in range(5):
        (tmp_path / "s" / f"{index}.dcm").write_bytes(b"")
    (case,) = list_volumes(tmp_path)
    with pytest.raises(
        DataError, match=r"s: 5 slices are missing: 0.dcm is empty, 1.dcm is empty, 2.dcm .* and 2 more"
    ):
        read_header(case["image"])


def test_a_broken_slice_that_says_its_series_counts_against_that_alone(tmp_path: Path):
    folder = tmp_path / "s"
    files = write_dicom(folder, hounsfield(SHAPE), uid="1.2.3")
    for file in write_dicom(tmp_path / "t", hounsfield((4, 4, 3)), uid="1.2.4"):
        file.rename(folder / f"t{file.name}")
    cut_in_the_pixels(files[0])
    with pytest.raises(DataError, match="1 slice is missing"):
        read_header(f"{folder}#1.2.3")
    assert read_header(f"{folder}#1.2.4").shape == (4, 4, 3)


@pytest.mark.parametrize(("place", "at_fault"), [(0, "a"), (4, "ab"), (7, "b")])
def test_an_empty_file_counts_against_the_series_that_its_name_lies_in(tmp_path: Path, place: int, at_fault: str):
    folder = tmp_path / "s"
    files = [*write_dicom(folder, hounsfield(SHAPE), uid="1.2.3"), *write_dicom(tmp_path, hounsfield((4, 4, 4)))]
    files = [file.rename(folder / f"{index}.dcm") for index, file in enumerate(files)]
    emptied(files[place])
    for name, path in zip("ab", sorted(case["image"] for case in list_volumes(tmp_path)), strict=True):
        if name in at_fault:
            with pytest.raises(DataError, match=rf"{place}.dcm is empty"):
                read_header(path)
        else:
            assert read_header(path).shape[2] == {"a": 5, "b": 4}[name]


def test_where_names_of_series_are_mixed_an_empty_file_counts_against_each(tmp_path: Path):
    folder = tmp_path / "s"
    ours = write_dicom(folder, hounsfield(SHAPE), uid="1.2.3")
    other = write_dicom(tmp_path, hounsfield(SHAPE), uid="1.2.4")
    for index, pair in enumerate(zip(ours, other, strict=True)):
        for file, suffix in zip(pair, "ab", strict=True):
            file.rename(folder / f"{index}{suffix}.dcm")
    (folder / "9.dcm").write_bytes(b"")
    for path in (f"{folder}#1.2.3", f"{folder}#1.2.4"):
        with pytest.raises(DataError, match=r"1 slice is missing: 9.dcm is empty"):
            read_header(path)


def test_damaged_files_give_a_message_or_a_volume(tmp_path: Path):
    """Bytes changed and tails cut off, at random: whatever pydicom makes of it, nothing else is raised."""
    rng = np.random.default_rng(0)
    whole = [file.read_bytes() for file in write_dicom(tmp_path / "whole", hounsfield(SHAPE))]
    compressed_files = write_dicom(tmp_path / "rle", hounsfield(SHAPE))
    compress_dicom(compressed_files[0])
    sources = [whole, [compressed_files[0].read_bytes()]]
    folder = tmp_path / "s"
    folder.mkdir()
    refused = 0
    for trial in range(300):
        contents = list(sources[trial % 2])
        spoilt = bytearray(contents[0])
        for _ in range(int(rng.integers(1, 12))):
            spoilt[int(rng.integers(132, len(spoilt)))] = int(rng.integers(256))
        if trial % 5 == 0:
            spoilt = spoilt[: int(rng.integers(len(spoilt)))]
        contents[0] = bytes(spoilt)
        for index, content in enumerate(contents):
            (folder / f"{index}.dcm").write_bytes(content)
        refused += _is_refused(folder)
        for file in folder.iterdir():
            file.unlink()
    assert 100 < refused < 300


def _is_refused(folder: Path) -> bool:
    try:
        for case in list_volumes(folder):
            read_header(case["image"])
            read_voxels(case["image"])
    except DataError:
        return True
    return False
