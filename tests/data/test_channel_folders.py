"""Channels in files of their own: which files of a folder make a case."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.folder_parts import NOISE_SHAPE, save_noise

from vqseg_bundle.commands.data import main
from vqseg_bundle.data import (
    DataError,
    check_cases,
    check_cohort,
    find_cases,
    list_volumes,
    load_datalist,
    place_to_segment,
)
from vqseg_bundle.data.formats.volume_path import channel_paths
from vqseg_bundle.data.layouts.channel_files import find_brats_channels, find_numbered_channels
from vqseg_bundle.data.layouts.found_case import unique_case_ids

OLD = ("flair", "t1", "t1ce", "t2")


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
            save_noise(tmp_path / f"imagesTr/{case}_000{channel}.nii.gz", channel)
    save_noise(tmp_path / "labelsTr/a.nii.gz", classes=(0, 1))
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
            save_noise(tmp_path / f"HGG/{name}/{name}{mark}{ending}.nii.gz", 10 * number + seed)
        save_noise(tmp_path / f"HGG/{name}/{name}{mark}seg.nii.gz", number, classes=(0, 1, 2, 4))
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
        save_noise(tmp_path / f"{name}.nii.gz")
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
        nib.save(nib.Nifti1Image(np.zeros((*NOISE_SHAPE, 2), np.int16), np.eye(4)), tmp_path / f"{name}.nii.gz")
    assert [case["case"] for case in list_volumes(tmp_path, in_channels=2)] == ["s_0000", "s_0001"]


def test_inference_leaves_out_a_case_that_lacks_a_channel_and_names_it(tmp_path: Path):
    for seed, name in enumerate(("x_0000", "x_0001", "y_0000")):
        save_noise(tmp_path / f"{name}.nii.gz", seed)
    checked = check_cases(list_volumes(tmp_path, in_channels=2), {0: "background", 1: "x"}, 2, use_cache=False)
    assert [case["case"] for case in checked.sound] == ["x"]
    assert len(checked.errors) == 1
    assert checked.errors[0].startswith(f"{tmp_path}/y_0001.nii.gz: no such file")


def test_labels_beside_channels_are_left_out(tmp_path: Path):
    for name in ("x_0000", "x_0001", "x_seg", *(f"b_{ending}" for ending in OLD), "b_seg"):
        save_noise(tmp_path / f"{name}.nii.gz")
    names = [case["case"] for case in list_volumes(tmp_path, in_channels=2)]
    assert "x_seg" not in names
    assert "b_seg" not in names


@pytest.mark.parametrize("endings", [("_0000", "_0001"), tuple(f"_{ending}" for ending in OLD)])
def test_a_case_is_found_again_in_the_place_that_is_named(endings: tuple[str, ...], tmp_path: Path):
    for case in ("x", "y"):
        for ending in endings:
            save_noise(tmp_path / "images" / f"{case}{ending}.nii.gz")
    image = "|".join(f"{tmp_path}/images/x{ending}.nii.gz" for ending in endings)
    place = place_to_segment(image)
    assert place == f"{tmp_path}/images"
    assert image in [case["image"] for case in list_volumes(place, in_channels=len(endings))]
