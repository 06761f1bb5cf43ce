"""Labelled cases without a datalist: the other images of their folder are the unlabelled ones."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from support.data_parts import write_volume

from vqseg_bundle.data import DataError, find_other_images, load_datalist, open_cohort, open_listed_cases
from vqseg_bundle.data.layouts.found_case import case_stem, unique_case_ids

LABELS = {"0": "background", "1": "organ"}


def write(folder: Path, **content: object) -> Path:
    path = folder / "datalist.json"
    path.write_text(json.dumps({"name": "n", "labels": LABELS, "training": [], **content}))
    return path


def test_all_splits_are_read_with_absolute_paths_and_ids(tmp_path: Path):
    path = write(
        tmp_path,
        training=[{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz", "patient": 7}],
        unlabeled=[{"image": "imagesTr/b.nii.gz", "label": "labelsTr/b.nii.gz"}],
        validation=[{"image": "imagesTr/c.nii", "label": "labelsTr/c.nii"}],
        test=["./imagesTs/d.nii.gz"],
    )
    cohort = load_datalist(path, tmp_path)
    root = str(tmp_path)
    assert cohort.labels == {0: "background", 1: "organ"}
    assert cohort.training == [
        {"image": f"{root}/imagesTr/a.nii.gz", "label": f"{root}/labelsTr/a.nii.gz", "case": "a", "patient": "7"}
    ]
    assert cohort.unlabeled == [{"image": f"{root}/imagesTr/b.nii.gz", "case": "b", "patient": "b"}]
    assert cohort.validation[0]["label"] == f"{root}/labelsTr/c.nii"
    assert cohort.test == [{"image": f"{root}/imagesTs/d.nii.gz", "case": "d", "patient": "d"}]
    assert (cohort.name, cohort.source) == ("n", str(path))


def test_labels_may_be_a_list_of_names(tmp_path: Path):
    path = write(tmp_path, labels=["background", "x", "y"])
    assert load_datalist(path, tmp_path).labels == {0: "background", 1: "x", 2: "y"}


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.nii.gz", "a"),
        ("a.b.nii", "a.b"),
        ("a.dcm", "a"),
        ("1.2.840.10008", "1.2.840.10008"),
        ("a_0.75.nii.gz", "a_0.75"),
        (".nii.gz", ".nii.gz"),
    ],
)
def test_stem(name: str, stem: str):
    assert case_stem(f"/folder/{name}") == stem


def test_equal_names_get_as_many_folders_as_tell_them_apart():
    paths = ["/r/a/x/im.nii.gz", "/r/b/x/im.nii.gz", "/r/b/y/im.nii.gz", "/r/other.nii.gz"]
    assert unique_case_ids(paths) == ["a_x_im", "b_x_im", "y_im", "other"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/m/r/c.nii", "/m/r/c.nii.gz"], ["c_nii", "c_nii_gz"]),
        (["/m/r/c", "/m/r/c.nii.gz", "/m/r/c.NRRD"], ["c", "c_nii_gz", "c_NRRD"]),
        (["/m/r/c.nii", "/m/r/c.nii.gz", "/m/s/c.nii"], ["c_nii", "c_nii_gz", "c"]),
        (["/m/r/c.nii", "/m/r/c.nii.gz", "/m/s/c.nii", "/m/s/c.mha"], ["r_c_nii", "c_nii_gz", "s_c_nii", "c_mha"]),
        (["/m/r/c.nii", "/m/r/c.nii.gz", "/m/r/c_nii.mha"], ["c_nii", "c_nii_gz", "c_nii_2"]),
        (["/m/r/x_0000.nii|/m/r/x_0001.nii", "/m/r/x.nii.gz"], ["x_nii", "x_nii_gz"]),
    ],
)
def test_files_of_one_name_in_one_folder_are_told_apart_by_their_endings(paths: list[str], names: list[str]):
    """Not by parents, which are the same: names would tell where the folder lies on this machine."""
    assert unique_case_ids(paths) == names


def test_ids_are_unique_even_for_repeated_paths_and_names_that_look_like_numbered_ones():
    ids = unique_case_ids(["/r/x.nii", "/r/x.nii", "/r/x_2.nii", "/r/x.nii"])
    assert ids == ["x", "x_3", "x_2", "x_4"]


@pytest.mark.parametrize(
    ("values", "of_classes"), [([0, 1, 2], {}), ([0, 1, 255], {}), ([0, 5, 1], {0: 0, 1: 5}), ([1, 2, 0], {0: 1, 1: 2})]
)
def test_values_of_classes_are_without_that_of_ignore(tmp_path: Path, values: list[int], of_classes: dict[int, int]):
    labels = ["background", "organ", "ignore"]
    cohort = load_datalist(write(tmp_path, labels=labels, label_values=values), tmp_path)
    assert cohort.class_values == of_classes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": None}, 'key "labels" is missing; expected'),
        ({"labels": {"1": "a", "2": "b"}}, r"keys \"0\" to \"C-1\" without gaps.*found keys \['1', '2'\]"),
        ({"labels": {"0": "background"}}, "two at least; found keys"),
        ({"labels": {"background": 0, "organ": 1}}, r"found keys \['background', 'organ'\]"),
        ({"labels": "organ"}, "found a string"),
        ({"labels": ["background", ""]}, "entry \"1\": expected a name, found ''"),
        ({"labels": ["background", "a", "a"]}, "expected a different name for each, found"),
        ({"training": {"image": "a"}}, 'key "training": expected a list of cases, found an object'),
        ({"training": [{"image": "a.nii"}]}, r'"training" entry 0 \(a.nii\): .* move cases without one to "unlabeled"'),
        ({"training": ["a.nii"]}, 'a training case needs a "label"'),
        (
            {"training": [{"label": "a.nii"}]},
            'entry 0: expected the path of one volume under "image", or .* found None',
        ),
        ({"unlabeled": [{"image": ["a.nii", 3]}]}, "a list of one path a channel, found .'a.nii', 3"),
        ({"test": [{"image": ["a", "b"], "series": "1.2"}]}, '"series" names one DICOM series, found 2 paths'),
        ({"label_values": [0, 1, 4]}, r'"label_values": expected .* each of 2 classes .* found \[0, 1, 4\]'),
        ({"label_values": [0, 0]}, r"all whole and different, found \[0, 0\]"),
        ({"label_values": {"0": 0, "2": 4}}, "expected the files' value for each of 2 classes"),
        ({"label_values": [0, 1.5]}, "all whole and different"),
        ({"channel_names": "T1"}, "\"channel_names\": expected a list of names, found 'T1'"),
        ({"test": [{"image": "a.nii", "label": 3}]}, 'under "label", found a int'),
        ({"test": [{"image": "a.nii", "patient": ["p"]}]}, 'expected an id under "patient", found a list'),
        ({"test": [3]}, '"test" entry 0: expected {"image": path, ...}, found a int'),
        ({"unlabelled": [{"image": "a.nii"}]}, 'unknown list "unlabelled".*Did you mean "unlabeled"'),
        ({"val": ["a.nii.gz"]}, 'unknown list "val"; lists of cases are called training, unlabeled, validation, test'),
    ],
)
def test_bad_content_is_refused(tmp_path: Path, content: dict, message: str):
    with pytest.raises(DataError, match=message):
        load_datalist(write(tmp_path, **content), tmp_path)


def test_lists_that_are_not_cases_pass(tmp_path: Path):
    assert load_datalist(write(tmp_path, keywords=["MRI"], modality={"0": "MR"}), tmp_path).training == []


def test_missing_training_key_is_refused(tmp_path: Path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"labels": LABELS}))
    with pytest.raises(DataError, match=r'd\.json: key "training" is missing'):
        load_datalist(path, tmp_path)


def test_missing_file_names_the_working_directory_and_the_script(tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere.json: no such file.*working directory.*vqseg data"):
        load_datalist(tmp_path / "nowhere.json", tmp_path)


def test_missing_dataset_dir_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"dataset_dir .*gone: expected a folder, found nothing"):
        load_datalist(write(tmp_path), tmp_path / "gone")
    with pytest.raises(
        DataError, match=r"dataset_dir gone: expected .* nothing\. Relative paths start at the working "
    ):
        load_datalist(write(tmp_path), "gone")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a JSON file"),
        ("[]", "a JSON object, found a list"),
        ('{"training": [1], "training": []}', r'd\.json: expected a JSON file, .* key "training" is there twice\.$'),
        ('{"labels": {"0": "b", "1": "liver", "1": "tumour"}}', r'd\.json: .* key "1" is there twice\.$'),
    ],
)
def test_file_that_is_not_a_json_object_is_refused(tmp_path: Path, text: str, message: str):
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_datalist(path, tmp_path)


def test_open_cohort_finds_either_name_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = tmp_path / "data"
    data.mkdir()
    write(data).rename(data / "dataset.json")
    monkeypatch.chdir(tmp_path)
    assert open_cohort("data", None, "demo").source == "data/dataset.json"
    assert open_cohort("", "data/dataset.json", "demo").name == "n"
    write(data, name="preferred")
    assert open_cohort("data", "", "demo").name == "preferred"
    assert not (tmp_path / "demo").exists()


def test_open_cohort_without_datalist_names_the_script(tmp_path: Path):
    with pytest.raises(DataError, match=r"expected datalist.json or dataset.json in it.*vqseg data"):
        open_cohort(str(tmp_path), None, "demo")


def test_a_datalist_may_not_lead_out_of_its_folder(tmp_path: Path):
    inside, other = tmp_path / "cohort", tmp_path / "other"
    touch(inside, "b.nii")
    touch(other, "a.nii")
    (inside / "link.nii").symlink_to(other / "a.nii")
    (tmp_path / "name").symlink_to(inside)
    content = {"labels": ["background", "organ"], "training": [{"image": "link.nii", "label": "b.nii"}]}
    for path, is_inside in (("../other/a.nii", False), (str(other / "a.nii"), False), (str(inside / "b.nii"), True)):
        for entry in ({"image": path, "label": "b.nii"}, {"image": "b.nii", "label": path}, {"image": ["b.nii", path]}):
            lists = {**content, "test": [entry]}
            (inside / "datalist.json").write_text(json.dumps(lists))
            folder = str(tmp_path / "name")  # an absolute path may lead through another name of the same folder
            assert open_cohort(folder, None, "demo", allow_outside_files=True).test
            if is_inside:
                assert open_cohort(folder, None, "demo").test
                continue
            message = (
                r"expected files in the dataset's folder, .*name, found .*other/a\.nii.*--allow_outside_files true"
            )
            with pytest.raises(DataError, match=message):
                open_cohort(folder, None, "demo")


def test_open_cohort_with_missing_folder(tmp_path: Path):
    with pytest.raises(DataError, match=r"dataset_dir .*gone: expected a folder"):
        open_cohort(str(tmp_path / "gone"), None, "demo")


NAMES = {0: "background", 1: "organ"}


def names(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


def touch(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


def study(folder: Path) -> list[dict[str, str]]:
    """What MONAI Label's local datastore leaves in a folder, and the list that it trains on."""
    touch(folder, "datastore_v2.json", ".lock", ".hidden.nii.gz", "preview.png")
    touch(folder, *(f"{name}.nii.gz" for name in "abcde"))
    touch(folder, "labels/final/a.nii.gz", "labels/final/b.nii.gz", "labels/original/c.nii.gz")
    return [
        {"image": str(folder / f"{n}.nii.gz"), "label": str(folder / f"labels/final/{n}.nii.gz")} for n in ("a", "b")
    ]


def test_a_study_folder_gives_all_other_images_and_no_label(tmp_path: Path) -> None:
    cases = study(tmp_path)
    assert find_other_images(cases) == [str(tmp_path / f"{name}.nii.gz") for name in "cde"]
    cohort = open_listed_cases({"training": cases[:1], "validation": cases[1:]}, NAMES, "study", "here")
    assert names([case["image"] for case in cohort.unlabeled]) == ["c.nii.gz", "d.nii.gz", "e.nii.gz"]
    assert [case["case"] for case in cohort.training + cohort.validation + cohort.unlabeled] == list("abcde")
    assert (cohort.labels, cohort.name, cohort.source, cohort.listed) == (NAMES, "study", "here", True)
    assert "label" not in cohort.unlabeled[0]


def test_images_that_are_linked_into_the_study_folder_stay_in_it(tmp_path: Path) -> None:
    """MONAI Label hands over resolved paths: where the links lead lie images of other studies, too."""
    archive, folder = tmp_path / "archive", tmp_path / "study"
    touch(archive, *(f"{name}.nii.gz" for name in "abcz"))
    touch(folder, "labels/final/a.nii.gz")
    for name in "abc":
        (folder / f"{name}.nii.gz").symlink_to(archive / f"{name}.nii.gz")
    cases = [{"image": str(archive / "a.nii.gz"), "label": str(folder / "labels/final/a.nii.gz")}]
    assert find_other_images(cases) == [str(folder / "b.nii.gz"), str(folder / "c.nii.gz")]


def test_folders_of_images_and_of_labels(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "images/b.nii", "images/below/c.nii.gz", "labels/a.nii.gz", "d.nii.gz")
    cases = [{"image": str(tmp_path / "images/a.nii.gz"), "label": str(tmp_path / "labels/a.nii.gz")}]
    assert names(find_other_images(cases)) == ["b.nii"]


def test_series_are_found_beside_a_series(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_volume(tmp_path / name, np.zeros((4, 4, 2), np.int16))
    touch(tmp_path, "notes.txt", "labels/a.nii.gz")
    cases = [{"image": str(tmp_path / "a"), "label": str(tmp_path / "labels" / "a.nii.gz")}]
    assert find_other_images(cases) == [str(tmp_path / "b"), str(tmp_path / "c")]


def test_labels_beside_images_are_not_taken_for_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.nii.gz", "a_gt.nii.gz", "b.nii.gz", "b_gt.nii.gz")
    cases = [{"image": str(tmp_path / "a.nii.gz"), "label": str(tmp_path / "a_gt.nii.gz")}]
    with caplog.at_level(logging.WARNING):
        assert find_other_images(cases) == []
    assert f"labels lie beside images in {tmp_path}" in caplog.text
    assert "list the images with unlabeled_data" in caplog.text


def test_a_list_of_unlabelled_cases_is_taken_as_it_is(tmp_path: Path) -> None:
    cases = study(tmp_path)
    assert open_listed_cases({"training": cases, "unlabeled": []}, NAMES, "study", "here").unlabeled == []
    given = [{"image": str(tmp_path / "e.nii.gz")}]
    cohort = open_listed_cases({"training": cases, "unlabeled": given}, NAMES, "study", "here")
    assert [case["image"] for case in cohort.unlabeled] == [str(tmp_path / "e.nii.gz")]


def test_what_is_no_case_is_refused_by_the_name_of_its_list() -> None:
    with pytest.raises(DataError, match=r'train#dataset#data: "training" entry 0 \(a.nii\): a training case needs a'):
        open_listed_cases({"training": [{"image": "a.nii"}]}, NAMES, "study", "train#dataset#data")
