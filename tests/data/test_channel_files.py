"""Channels in files of their own: how a case's files make one volume."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd
from support.folder_parts import NOISE_SHAPE, save_noise

from vqseg_bundle.data import (
    DataError,
    LoadVolumed,
    VolumeWriter,
    check_cases,
    check_cohort,
    content_digest,
    data_digest,
    load_datalist,
    open_listed_cases,
    read_header,
    read_voxels,
    source_files,
)
from vqseg_bundle.data.formats.table import volume_kind
from vqseg_bundle.data.formats.volume_path import channel_paths, join_channels

LABELS = {0: "background", 1: "x"}


def voxels_of(path: str) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    return [save_noise(tmp_path / f"x_000{channel}.nii.gz", channel) for channel in range(2)]


def test_files_stack_to_channels_in_order(two: list[str]):
    volume = join_channels(two)
    header = read_header(volume)
    assert (header.shape, header.channels, volume_kind(volume)) == ((*NOISE_SHAPE, 2), 2, "nifti")
    np.testing.assert_array_equal(header.affine, nib.load(two[0]).affine)
    for channel, path in enumerate(two):
        np.testing.assert_array_equal(read_voxels(volume)[..., channel], voxels_of(path))
    np.testing.assert_array_equal(read_voxels(join_channels(two[::-1]))[..., 0], voxels_of(two[1]))
    loaded = Compose([LoadVolumed("x"), EnsureChannelFirstd("x")])({"x": volume})["x"]
    np.testing.assert_array_equal(loaded[1], voxels_of(two[1]))
    assert loaded.meta["filename_or_obj"] == volume
    assert source_files(volume) == two


def test_formats_and_types_may_differ_among_channels(tmp_path: Path):
    voxels = np.arange(120, dtype=np.int16).reshape(5, 4, 6)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "x.nii")
    np.save(tmp_path / "y.npy", voxels / np.float32(7))
    found = read_voxels(join_channels([str(tmp_path / "x.nii"), str(tmp_path / "y.npy")]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.stack([voxels, voxels / np.float32(7)], axis=-1))


def test_a_bar_in_the_name_of_a_file_that_exists_is_part_of_it(tmp_path: Path):
    odd, other = save_noise(tmp_path / "a|b/x|1.nii", 3), save_noise(tmp_path / "y.nii", 4)
    assert channel_paths(odd) == [odd]
    assert channel_paths(f"{odd}|{other}") == [odd, other]
    assert channel_paths(f"{other}|{odd}") == [other, odd]
    np.testing.assert_array_equal(read_voxels(f"{other}|{odd}")[..., 1], voxels_of(odd))


def test_many_long_paths_are_no_trouble(tmp_path: Path):
    files = [save_noise(tmp_path / ("long" * 40) / f"x_{channel:04d}.nii", channel) for channel in range(30)]
    assert read_header(join_channels(files)).channels == 30


def test_channels_on_other_grids_are_refused_by_name(two: list[str], tmp_path: Path):
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[0, 3] = 0.5
    other = save_noise(tmp_path / "other.nii", 1, affine)
    with pytest.raises(DataError, match=r"^\S+other\.nii: expected one channel on the grid of \S+, .* 0\.5 mm off"):
        read_header(join_channels([*two, other]))
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 9), np.int16), affine), other)
    with pytest.raises(DataError, match=r"^\S+other\.nii: .* \(5, 4, 9\) voxels instead of \(5, 4, 3\)"):
        read_voxels(join_channels([*two, other]))
    nib.save(nib.Nifti1Image(np.zeros((*NOISE_SHAPE, 2), np.int16), affine), other)
    with pytest.raises(DataError, match=r"^\S+other\.nii: expected one channel a file, found shape \(5, 4, 3, 2\)"):
        read_header(join_channels([*two, other]))


def test_a_prediction_lies_on_the_first_channel(two: list[str], tmp_path: Path):
    writer = VolumeWriter(output_dtype=np.uint8)
    writer.set_data_array(MetaTensor(torch.ones(1, *NOISE_SHAPE)))
    writer.set_metadata({"affine": nib.load(two[0]).affine, "filename_or_obj": join_channels(two)}, resample=False)
    writer.write(tmp_path / "p.nii.gz")
    assert nib.load(tmp_path / "p.nii.gz").header["qform_code"] == nib.load(two[0]).header["qform_code"]


@pytest.mark.parametrize("kind", ["hdr", "mhd", "nhdr"])
def test_digests_see_voxels_in_a_file_of_their_own(tmp_path: Path, kind: str):
    header, voxels = tmp_path / f"a.{kind}", tmp_path / ("a.img" if kind == "hdr" else "a.raw")
    if kind == "hdr":
        nib.save(nib.Nifti1Pair(np.zeros((4, 3, 2), np.int16), np.eye(4)), header)
    elif kind == "mhd":
        fields = "NDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\nElementDataFile = a.raw\n"
        header.write_text(f"ObjectType = Image\n{fields}")
    else:
        header.write_text(
            "NRRD0004\ntype: unsigned char\ndimension: 3\nsizes: 4 3 2\nencoding: raw\ndata file: a.raw\n\n"
        )
    found = set()
    for value in (0, 1):
        voxels.write_bytes(bytes([value]) * (48 if kind == "hdr" else 24))
        found.add(content_digest(str(header)))
    assert source_files(str(header)) == [str(header), str(voxels)]
    assert len(found) == 2


def test_digests_see_every_channel(two: list[str], tmp_path: Path):
    (tmp_path / "d.json").write_text(json.dumps({"labels": ["background", "x"], "unlabeled": [{"image": two}]}))
    cohort = load_datalist(tmp_path / "d.json", tmp_path)
    before = data_digest(cohort), content_digest(cohort.unlabeled[0]["image"])
    save_noise(Path(two[1]), 9)
    after = data_digest(cohort), content_digest(cohort.unlabeled[0]["image"])
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_cases_that_are_listed_anew_keep_their_channels(two: list[str], tmp_path: Path):
    """As an override of the training's list beside a datalist does with the datalist's other cases."""
    for seed in (2, 3):
        save_noise(tmp_path / f"y_000{seed - 2}.nii.gz", seed)
    label = save_noise(tmp_path / "labels/x.nii.gz", classes=(0, 1))
    entries = [{"image": [Path(path).name for path in two], "label": "labels/x.nii.gz"}]
    (tmp_path / "d.json").write_text(json.dumps({"labels": ["background", "x"], "training": entries}))
    cohort = load_datalist(tmp_path / "d.json", tmp_path)
    again = open_listed_cases({"training": cohort.training}, LABELS, "n", "here")
    assert [case["image"] for case in again.training] == ["|".join(two)]
    assert again.training[0]["label"] == label
    assert [case["image"] for case in again.unlabeled] == [f"{tmp_path}/y_0000.nii.gz|{tmp_path}/y_0001.nii.gz"]
    joined = [{"image": "x_0000.nii.gz|x_0001.nii.gz", "label": "labels/x.nii.gz"}]
    (tmp_path / "d.json").write_text(json.dumps({"labels": ["background", "x"], "training": joined}))
    assert load_datalist(tmp_path / "d.json", tmp_path).training == cohort.training


def test_the_check_remembers_no_channel_that_has_changed(
    two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in two:
        os.utime(path, (1e9, 1e9))  # long settled
    cases = [{"image": join_channels(two)}]
    assert check_cases(cases, LABELS, 2).errors == []
    voxels = np.full(NOISE_SHAPE, np.nan, np.float32)
    nib.save(nib.Nifti1Image(voxels, nib.load(two[0]).affine), two[1])
    with pytest.raises(DataError, match="60 of 120 intensities are NaN"):
        check_cases(cases, LABELS, 2)


def test_a_file_of_two_cases_in_two_splits_is_seen(two: list[str], tmp_path: Path):
    label = save_noise(tmp_path / "l.nii.gz", classes=(0, 1))
    other = save_noise(tmp_path / "o.nii.gz", 5)
    splits = {"training": [{"image": two, "label": label}], "test": [{"image": [two[0], other]}]}
    (tmp_path / "d.json").write_text(json.dumps({"labels": ["background", "x"], **splits}))
    with pytest.raises(DataError, match=r'x_0000\.nii\.gz: listed under "training" and "test"'):
        check_cohort(load_datalist(tmp_path / "d.json", tmp_path), 2, progress=False, use_cache=False)
