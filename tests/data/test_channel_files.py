"""Channels in files of their own: how files make cases, and how a case's files make one volume."""

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

from vqseg_bundle.commands.data import main
from vqseg_bundle.data import (
    DataError,
    LoadVolumed,
    VolumeWriter,
    check_cases,
    check_cohort,
    content_digest,
    data_digest,
    find_cases,
    list_volumes,
    load_datalist,
    open_listed_cases,
    read_header,
    read_voxels,
    source_files,
)
from vqseg_bundle.data.formats.table import volume_kind
from vqseg_bundle.data.formats.volume_path import channel_paths, join_channels
from vqseg_bundle.data.layouts.channel_files import find_brats_channels, find_numbered_channels
from vqseg_bundle.data.layouts.found_case import unique_case_ids

SHAPE = (5, 4, 3)
OLD = ("flair", "t1", "t1ce", "t2")
LABELS = {0: "background", 1: "x"}


def save(path: Path, seed: int = 0, affine: np.ndarray | None = None, classes: tuple[int, ...] = ()) -> str:
    """An image of noise, or a label of the classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    voxels = rng.choice(classes, SHAPE).astype(np.uint8) if classes else rng.integers(0, 999, SHAPE, np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine), path)
    return str(path)


def voxels_of(path: str) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    return [save(tmp_path / f"x_000{channel}.nii.gz", channel) for channel in range(2)]


def test_files_stack_to_channels_in_order(two: list[str]):
    volume = join_channels(two)
    header = read_header(volume)
    assert (header.shape, header.channels, volume_kind(volume)) == ((*SHAPE, 2), 2, "nifti")
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
    odd, other = save(tmp_path / "a|b/x|1.nii", 3), save(tmp_path / "y.nii", 4)
    assert channel_paths(odd) == [odd]
    assert channel_paths(f"{odd}|{other}") == [odd, other]
    assert channel_paths(f"{other}|{odd}") == [other, odd]
    np.testing.assert_array_equal(read_voxels(f"{other}|{odd}")[..., 1], voxels_of(odd))


def test_many_long_paths_are_no_trouble(tmp_path: Path):
    files = [save(tmp_path / ("long" * 40) / f"x_{channel:04d}.nii", channel) for channel in range(30)]
    assert read_header(join_channels(files)).channels == 30


def test_channels_on_other_grids_are_refused_by_name(two: list[str], tmp_path: Path):
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[0, 3] = 0.5
    other = save(tmp_path / "other.nii", 1, affine)
    with pytest.raises(DataError, match=r"^\S+other\.nii: expected one channel on the grid of \S+, .* 0\.5 mm off"):
        read_header(join_channels([*two, other]))
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 9), np.int16), affine), other)
    with pytest.raises(DataError, match=r"^\S+other\.nii: .* \(5, 4, 9\) voxels instead of \(5, 4, 3\)"):
        read_voxels(join_channels([*two, other]))
    nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 2), np.int16), affine), other)
    with pytest.raises(DataError, match=r"^\S+other\.nii: expected one channel a file, found shape \(5, 4, 3, 2\)"):
        read_header(join_channels([*two, other]))


def test_a_prediction_lies_on_the_first_channel(two: list[str], tmp_path: Path):
    writer = VolumeWriter(output_dtype=np.uint8)
    writer.set_data_array(MetaTensor(torch.ones(1, *SHAPE)))
    writer.set_metadata({"affine": nib.load(two[0]).affine, "filename_or_obj": join_channels(two)}, resample=False)
    writer.write(tmp_path / "p.nii.gz")
    assert nib.load(tmp_path / "p.nii.gz").header["qform_code"] == nib.load(two[0]).header["qform_code"]


def test_digests_see_every_channel(two: list[str], tmp_path: Path):
    (tmp_path / "d.json").write_text(json.dumps({"labels": ["background", "x"], "unlabeled": [{"image": two}]}))
    cohort = load_datalist(tmp_path / "d.json", tmp_path)
    before = data_digest(cohort), content_digest(cohort.unlabeled[0]["image"])
    save(Path(two[1]), 9)
    after = data_digest(cohort), content_digest(cohort.unlabeled[0]["image"])
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/f/x_0000.nii.gz|/f/x_0001.nii.gz", "/f/y_0000.nii.gz|/f/y_0001.nii.gz"], ["x", "y"]),
        (["/f/B_1_t1.nii|/f/B_1_t1ce.nii"], ["B_1"]),
        (["/f/BraTS-GLI-00000-000-t1n.nii.gz|/f/BraTS-GLI-00000-000-t1c.nii.gz"], ["BraTS-GLI-00000-000"]),
        (["/f/p1/t1.nii|/f/p1/t2.nii", "/f/p2/t1.nii|/f/p2/t2.nii"], ["p1", "p2"]),
        (["/f/t1/p1.nii|/f/t2/p1.nii"], ["p1"]),
        (["/a/p/t1.nii|/a/p/t2.nii", "/b/p/t1.nii|/b/p/t2.nii"], ["a_p", "b_p"]),
    ],
)
def test_cases_are_called_by_what_their_channels_share(paths: list[str], names: list[str]):
    assert unique_case_ids(paths) == names


@pytest.mark.parametrize(
    ("names", "labels", "count", "found"),
    [
        (["x_0000", "x_0001", "y_0000"], ["x"], None, {"x": 2, "y": 2}),
        (["x_0000", "y_0000"], [], None, {"x": 1, "y": 1}),
        (["amos_0001", "amos_0002"], ["amos_0001"], None, {}),
        (["s_0000", "s_0001"], ["s_0000", "s_0001"], None, {}),
        (["s_0000", "s_0001"], [], None, {}),
        (["s_0000", "s_0001"], [], 2, {"s": 2}),
        (["s_0000", "s_0001"], ["s"], None, {"s": 2}),
        (["s_0000", "s_0001"], [], 1, {}),
        (["x_0000", "s_0000", "s_0001"], [], 1, {"x": 1}),
        (["x_0000", "x_0001", "x_0002"], [], 2, {}),
        (["s_0000", "s_0016", "y_0000", "y_0001", "z_0000", "z_0001"], [], None, {"y": 2, "z": 2}),
        (["x_0000", "x_0001", "y_0001"], [], None, {"x": 2, "y": 2}),
    ],
)
def test_which_numbers_are_channels(names: list[str], labels: list[str], count: int | None, found: dict[str, int]):
    channels = find_numbered_channels(names, labels, count)
    assert {case: len(of) for case, of in channels.items()} == found
    assert all(of == tuple(f"{case}_{number:04d}" for number in range(len(of))) for case, of in channels.items())


def test_brats_order_is_the_same_in_both_of_its_naming_schemes():
    assert find_brats_channels(["p_t2", "p_t1ce", "p_t1", "p_flair", "p_seg"]) == {
        "p": ("p_flair", "p_t1", "p_t1ce", "p_t2")
    }
    assert find_brats_channels(["p-t2w", "p-t1c", "p-t1n", "p-t2f", "p-seg"]) == {
        "p": ("p-t2f", "p-t1n", "p-t1c", "p-t2w")
    }
    assert find_brats_channels(["p_t1", "q_t2"]) == {}  # one sequence a case
    lacking = find_brats_channels(["p_t1", "p_t2", "q_t2"])
    assert lacking["q"] == ("q_flair", "q_t1", "q_t1ce", "q_t2")
    assert find_brats_channels(["p-t1n"], certain=True) == {"p": ("p-t2f", "p-t1n", "p-t1c", "p-t2w")}


def test_nnunet_folders_become_lists_of_paths(tmp_path: Path):
    for case in ("a", "b"):
        for channel in range(2):
            save(tmp_path / f"imagesTr/{case}_000{channel}.nii.gz", channel)
    save(tmp_path / "labelsTr/a.nii.gz", classes=(0, 1))
    main(["--dataset-dir", str(tmp_path)])
    datalist = json.loads((tmp_path / "datalist.json").read_text())
    paths = [f"imagesTr/a_000{channel}.nii.gz" for channel in range(2)]
    assert datalist["training"] == [{"image": paths, "label": "labelsTr/a.nii.gz", "patient": "a"}]
    assert datalist["unlabeled"][0]["patient"] == "b"
    cohort = load_datalist(tmp_path / "datalist.json", tmp_path)
    assert [case["case"] for case in [*cohort.training, *cohort.unlabeled]] == ["a", "b"]
    assert cohort.training[0]["image"] == "|".join(str(tmp_path / path) for path in paths)


@pytest.mark.parametrize(
    "scheme", [("BraTS20_Training_00{}", "_", OLD), ("BraTS-GLI-0000{}-000", "-", ("t2f", "t1n", "t1c", "t2w"))]
)
def test_brats_folders(scheme: tuple, tmp_path: Path):
    pattern, mark, endings = scheme
    for number in (1, 2):
        name = pattern.format(number)
        for seed, ending in enumerate(endings):
            save(tmp_path / f"HGG/{name}/{name}{mark}{ending}.nii.gz", 10 * number + seed)
        save(tmp_path / f"HGG/{name}/{name}{mark}seg.nii.gz", number, classes=(0, 1, 2, 4))
    main(["--dataset-dir", str(tmp_path), "--labels", "background,core,oedema,enhancing"])
    datalist = json.loads((tmp_path / "datalist.json").read_text())
    assert datalist["channel_names"] == ["FLAIR", "T1", "T1 with contrast", "T2"]
    assert datalist["label_values"] == [0, 1, 2, 4]
    name = pattern.format(1)
    entry = datalist["training"][0]
    assert entry["image"] == [f"HGG/{name}/{name}{mark}{ending}.nii.gz" for ending in endings]
    assert entry["label"] == f"HGG/{name}/{name}{mark}seg.nii.gz"
    assert entry["patient"] == name.removesuffix("-000")
    cohort = load_datalist(tmp_path / "datalist.json", tmp_path)
    assert cohort.channel_names[0] == "FLAIR"
    assert check_cohort(cohort, 4, progress=False, use_cache=False) == []
    cases = list_volumes(tmp_path, in_channels=4)
    assert [case["image"] for case in cases] == [case["image"] for case in cohort.training]
    assert [case["case"] for case in cases] == [pattern.format(number) for number in (1, 2)]
    (tmp_path / f"HGG/{name}/{name}{mark}{endings[3]}.nii.gz").unlink()
    with pytest.raises(DataError, match=f"expected 4 channels of {name}, .* but {name}{mark}{endings[3]} is missing"):
        find_cases(tmp_path)
    for ending in endings[1:3]:
        (tmp_path / f"HGG/{name}/{name}{mark}{ending}.nii.gz").unlink()
    missing = ", ".join(f"{name}{mark}{ending}" for ending in endings[1:])  # the one that is left is no case, either
    with pytest.raises(DataError, match=f"expected 4 channels of {name}, .* but {missing} is missing"):
        find_cases(tmp_path)
    lacking = list_volumes(tmp_path, in_channels=4)[0]
    assert (lacking["case"], len(channel_paths(lacking["image"]))) == (name, 4)


def test_inference_brings_files_together_as_the_model_has_channels(tmp_path: Path):
    for name in ("x_0000", "x_0001", "y_0000", "y_0001", "z"):
        save(tmp_path / f"{name}.nii.gz")
    folder = str(tmp_path)
    two = list_volumes(folder, in_channels=2)
    assert [case["case"] for case in two] == ["x", "y", "z"]
    assert two[0]["image"] == f"{folder}/x_0000.nii.gz|{folder}/x_0001.nii.gz"
    assert [case["case"] for case in list_volumes(folder)] == ["x_0000", "x_0001", "y_0000", "y_0001", "z"]
    for name in ("x_0001", "y_0001"):
        (tmp_path / f"{name}.nii.gz").unlink()
    assert [(case["case"], Path(case["image"]).name) for case in list_volumes(folder)] == [
        ("x", "x_0000.nii.gz"),
        ("y", "y_0000.nii.gz"),
        ("z", "z.nii.gz"),
    ]


def test_files_of_several_channels_are_volumes_of_their_own(tmp_path: Path):
    for name in ("s_0000", "s_0001"):
        nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 2), np.int16), np.eye(4)), tmp_path / f"{name}.nii.gz")
    assert [case["case"] for case in list_volumes(tmp_path, in_channels=2)] == ["s_0000", "s_0001"]


def test_cases_that_are_listed_anew_keep_their_channels(two: list[str], tmp_path: Path):
    """As an override of the training's list beside a datalist does with the datalist's other cases."""
    for seed in (2, 3):
        save(tmp_path / f"y_000{seed - 2}.nii.gz", seed)
    label = save(tmp_path / "labels/x.nii.gz", classes=(0, 1))
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


def test_inference_leaves_out_a_case_that_lacks_a_channel_and_names_it(tmp_path: Path):
    for seed, name in enumerate(("x_0000", "x_0001", "y_0000")):
        save(tmp_path / f"{name}.nii.gz", seed)
    checked = check_cases(list_volumes(tmp_path, in_channels=2), LABELS, 2, use_cache=False)
    assert [case["case"] for case in checked.sound] == ["x"]
    assert len(checked.errors) == 1
    assert checked.errors[0].startswith(f"{tmp_path}/y_0001.nii.gz: no such file")


def test_labels_beside_channels_are_left_out(tmp_path: Path):
    for name in ("x_0000", "x_0001", "x_seg", *(f"b_{ending}" for ending in OLD), "b_seg"):
        save(tmp_path / f"{name}.nii.gz")
    names = [case["case"] for case in list_volumes(tmp_path, in_channels=2)]
    assert "x_seg" not in names
    assert "b_seg" not in names


def test_the_check_remembers_no_channel_that_has_changed(
    two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in two:
        os.utime(path, (1e9, 1e9))  # long settled
    cases = [{"image": join_channels(two)}]
    assert check_cases(cases, LABELS, 2).errors == []
    voxels = np.full(SHAPE, np.nan, np.float32)
    nib.save(nib.Nifti1Image(voxels, nib.load(two[0]).affine), two[1])
    with pytest.raises(DataError, match="60 of 120 intensities are NaN"):
        check_cases(cases, LABELS, 2)


def test_a_file_of_two_cases_in_two_splits_is_seen(two: list[str], tmp_path: Path):
    label = save(tmp_path / "l.nii.gz", classes=(0, 1))
    other = save(tmp_path / "o.nii.gz", 5)
    splits = {"training": [{"image": two, "label": label}], "test": [{"image": [two[0], other]}]}
    (tmp_path / "d.json").write_text(json.dumps({"labels": ["background", "x"], **splits}))
    with pytest.raises(DataError, match=r'x_0000\.nii\.gz: listed under "training" and "test"'):
        check_cohort(load_datalist(tmp_path / "d.json", tmp_path), 2, progress=False, use_cache=False)
