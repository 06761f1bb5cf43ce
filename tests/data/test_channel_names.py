"""Names of channels: files of one sequence are stacked in one place, whatever nnU-Net or BraTS calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support.folder_parts import NOISE_SHAPE, save_noise

from vqseg_bundle.commands.data import main
from vqseg_bundle.data import (
    DataError,
    channel_key,
    channels_differ,
    find_other_images,
    in_model_order,
    list_volumes,
    load_datalist,
    open_listed_cases,
)
from vqseg_bundle.data.formats.volume_path import channel_paths

BRATS = ["FLAIR", "T1", "T1 with contrast", "T2"]
ENDINGS = {"old": ("_flair", "_t1", "_t1ce", "_t2"), "new": ("-t2f", "-t1n", "-t1c", "-t2w")}
#: of nnU-Net's BraTS tasks, and of their like
NNUNET = ["T1", "T1ce", "T2", "FLAIR"]


def endings(volume: str) -> list[str]:
    """What is behind x in the names of a volume's files."""
    return [Path(path).name.removeprefix("x").removesuffix(".nii.gz") for path in channel_paths(volume)]


def write_list(folder: Path, *cases: tuple[str, ...], **more: Any) -> Path:
    """A datalist of unlabelled cases, each of the files named."""
    entries = [{"image": [f"{name}.nii.gz" for name in case]} for case in cases]
    (folder / "d.json").write_text(json.dumps({"labels": ["background", "x"], "unlabeled": entries, **more}))
    return folder / "d.json"


@pytest.mark.parametrize("scheme", ENDINGS)
@pytest.mark.parametrize(
    ("names", "places"),
    [(NNUNET, (1, 2, 3, 0)), (["t1n", "T1-Gd", "T2w", "T2 FLAIR"], (1, 2, 3, 0)), (BRATS, range(4)), ([], range(4))],
)
def test_files_called_as_in_brats_are_stacked_as_the_model_was_trained(
    tmp_path: Path, scheme: str, names: list[str], places: Any
):
    for seed, ending in enumerate(ENDINGS[scheme]):
        save_noise(tmp_path / f"x{ending}.nii.gz", seed)
    (case,) = list_volumes(tmp_path, in_channels=4, channel_names=names)
    assert (case["case"], endings(case["image"])) == ("x", [ENDINGS[scheme][place] for place in places])


def test_a_missing_channel_keeps_its_place(tmp_path: Path):
    save_noise(tmp_path / "x_t2.nii.gz")
    (case,) = list_volumes(tmp_path, in_channels=4, channel_names=NNUNET)
    assert endings(case["image"]) == ["_t1", "_t1ce", "_t2", "_flair"]


def test_numbered_files_keep_their_numbers(tmp_path: Path):
    for number in range(4):
        save_noise(tmp_path / f"x_000{number}.nii.gz", number)
    (case,) = list_volumes(tmp_path, in_channels=4, channel_names=BRATS)
    assert endings(case["image"]) == [f"_000{number}" for number in range(4)]


@pytest.mark.parametrize("names", [["T1", "T2", "ADC", "DWI"], ["T1", "T1ce", "T2"], ["T1", "T1", "T2", "FLAIR"]])
def test_files_of_other_sequences_than_the_models_are_refused(tmp_path: Path, names: list[str]):
    for seed, ending in enumerate(ENDINGS["old"]):
        save_noise(tmp_path / f"x{ending}.nii.gz", seed)
    expected = (
        rf"x_flair\.nii\.gz: expected the model's channels, {', '.join(names)}, found files of {', '.join(BRATS)}"
    )
    with pytest.raises(DataError, match=expected):
        list_volumes(tmp_path, in_channels=4, channel_names=names)


def test_volumes_of_all_channels_are_named_as_they_like(tmp_path: Path):
    nib.save(nib.Nifti1Image(np.zeros((*NOISE_SHAPE, 4), np.int16), np.eye(4)), tmp_path / "x_t2.nii.gz")
    (case,) = list_volumes(tmp_path, in_channels=4, channel_names=["a", "b", "c", "d"])
    assert endings(case["image"]) == ["_t2"]


def test_a_models_order_is_that_of_any_number_of_files():
    assert in_model_order("p/x_t2.nii|p/x_t1.nii", ["T1w", "T2w"]) == "p/x_t1.nii|p/x_t2.nii"
    assert in_model_order("p/x_t2.nii|p/x_adc.nii", ["ADC", "T2"]) == "p/x_t2.nii|p/x_adc.nii"
    assert in_model_order("p/x_t2.nii", ["T1", "T2"]) == "p/x_t2.nii"
    with pytest.raises(DataError, match="expected the model's channels, T1, FLAIR, found files of T2, T1, by their"):
        in_model_order("p/x_t2.nii|p/x_t1.nii", ["T1", "FLAIR"])


def test_names_of_one_sequence():
    assert [channel_key(name) for name in ("Flair", "t2f", "T2-FLAIR", "t1_Gd", "T1 CE")] == [
        *["FLAIR"] * 3,
        *["T1 with contrast"] * 2,
    ]
    assert channel_key("ADC") == channel_key("a-d c")
    assert channels_differ(["T1", "x"], ["T2", "y"])
    assert not channels_differ(["T1", "x"], ["t1n", "T2"])


@pytest.mark.parametrize("scheme", ENDINGS)
def test_a_datalist_without_names_has_those_of_its_files(tmp_path: Path, scheme: str):
    flair, t1, contrast, t2 = ENDINGS[scheme]
    order = [f"x{ending}" for ending in (t1, contrast, t2, flair)]
    found = load_datalist(write_list(tmp_path, tuple(order)), tmp_path).channel_names
    assert found == ("T1", "T1 with contrast", "T2", "FLAIR")
    files = [str(tmp_path / f"{name}.nii.gz") for name in order]
    listed = open_listed_cases({"training": [{"image": files, "label": "l.nii.gz"}]}, {0: "b", 1: "x"}, "n", "here")
    assert listed.channel_names == found
    own = ["first", "second", "third", "fourth"]
    assert load_datalist(write_list(tmp_path, tuple(order), channel_names=own), tmp_path).channel_names == tuple(own)
    assert load_datalist(write_list(tmp_path, ("x_0000", "x_0001")), tmp_path).channel_names == ()
    assert load_datalist(write_list(tmp_path, ("x_t1", "x_adc")), tmp_path).channel_names == ()
    assert load_datalist(write_list(tmp_path, ("x_t1",), ("x_t2",)), tmp_path).channel_names == ()


def test_a_datalist_whose_cases_have_several_orders_is_refused(tmp_path: Path):
    found = (
        r"expected the channels T1w?, T2w?, in this order, in every image, found T2, T1 by the names of .*y_t2\.nii\.gz"
    )
    with pytest.raises(DataError, match=rf"d\.json: {found}"):
        load_datalist(write_list(tmp_path, ("x_t1", "x_t2"), ("y_t2", "y_t1")), tmp_path)
    with pytest.raises(DataError, match=rf"d\.json: {found}"):
        load_datalist(write_list(tmp_path, ("y_t2", "y_t1"), channel_names=["T1w", "T2w"]), tmp_path)


def test_the_images_beside_listed_ones_are_stacked_as_these_are(tmp_path: Path):
    for seed, name in enumerate(f"{case}{ending}" for case in "wx" for ending in ENDINGS["old"]):
        save_noise(tmp_path / f"{name}.nii.gz", seed)
    label = save_noise(tmp_path / "labels/w.nii.gz", classes=(0, 1))
    order = ("_t1", "_t1ce", "_t2", "_flair")
    (other,) = find_other_images(
        [{"image": "|".join(str(tmp_path / f"w{ending}.nii.gz") for ending in order), "label": label}]
    )
    assert endings(other) == list(order)


def test_a_dataset_json_that_lists_files_by_brats_names_gives_their_order(tmp_path: Path):
    order = ("_t1", "_t1ce", "_t2", "_flair")
    for seed, ending in enumerate(order):
        save_noise(tmp_path / f"x{ending}.nii.gz", seed)
    save_noise(tmp_path / "x_seg.nii.gz", classes=(0, 1))
    entry = {"images": [f"x{ending}.nii.gz" for ending in order], "label": "x_seg.nii.gz"}
    content = {"labels": {"background": 0, "tumour": 1}, "dataset": {"x": entry}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    main(["--dataset-dir", str(tmp_path)])
    names = json.loads((tmp_path / "datalist.json").read_text())["channel_names"]
    assert names == ["T1", "T1 with contrast", "T2", "FLAIR"]
