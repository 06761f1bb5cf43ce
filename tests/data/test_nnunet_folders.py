"""Folders of nnU-Net 1 and 2, and the Decathlon's: what their dataset.json says, or its faults."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.folder_parts import fill, found

from vqseg_bundle.commands.data import main
from vqseg_bundle.data import DataError, find_cases, find_classes, find_unused_files, load_datalist


def dataset_json(root: Path, **content: Any) -> None:
    (root / "dataset.json").write_text(json.dumps(content))


def test_nnunet_1_lists_names_without_the_channels_number(tmp_path: Path) -> None:
    fill(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/t_0000.nii.gz")
    listed = [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]
    dataset_json(tmp_path, training=listed, labels={"0": "background", "1": "liver", "2": "tumor"})
    assert found(tmp_path) == [
        ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "a", ""),
        ("imagesTs/t_0000.nii.gz", "", "t", "unlabeled"),
    ]
    assert find_classes(tmp_path, find_cases(tmp_path)).names == ("background", "liver", "tumor")
    dataset_json(tmp_path, training=[{**listed[0], "image": "./imagesTr/b.nii.gz"}], labels={"0": "background"})
    message = (
        r"dataset\.json: expected the image imagesTr/b\.nii\.gz, found neither it nor b_0000\.nii\.gz; correct the"
    )
    with pytest.raises(DataError, match=message):
        find_cases(tmp_path)
    dataset_json(tmp_path, training=[{**listed[0], "image": r".\imagesTr\a.nii.gz"}], labels={"0": "background"})
    with pytest.raises(DataError, match=r"correct the list \(its paths use /\) or add the files"):
        find_cases(tmp_path)


def test_nnunet_2_lists_nothing(tmp_path: Path) -> None:
    fill(tmp_path, *(f"imagesTr/{case}_000{channel}.nii.gz" for case in "ab" for channel in (0, 1)))
    fill(tmp_path, "labelsTr/a.nii.gz", "labelsTr/b.nii.gz", "imagesTs/c_0000.nii.gz", "imagesTs/c_0001.nii.gz")
    fill(tmp_path, "labelsTs/c.nii.gz")
    names = {"0": "T2", "1": "ADC"}
    dataset_json(tmp_path, channel_names=names, labels={"background": 0, "zone": 1, "gland": 2}, file_ending=".nii.gz")
    assert found(tmp_path) == [
        *((f"imagesTr/{c}_0000.nii.gz", f"imagesTr/{c}_0001.nii.gz", f"labelsTr/{c}.nii.gz", c, "") for c in "ab"),
        ("imagesTs/c_0000.nii.gz", "imagesTs/c_0001.nii.gz", "labelsTs/c.nii.gz", "c", "test"),
    ]
    assert find_classes(tmp_path, find_cases(tmp_path)).names == ("background", "zone", "gland")
    main(["--dataset-dir", str(tmp_path), "--labeled-count", "1"])
    assert json.loads((tmp_path / "datalist.json").read_text())["channel_names"] == ["T2", "ADC"]
    with pytest.raises(DataError, match=r'key "training" is missing; .* vqseg data /'):
        load_datalist(tmp_path / "dataset.json", tmp_path)


def test_nnunet_2_may_name_every_file(tmp_path: Path) -> None:
    fill(tmp_path, "raw/one.nii.gz", "raw/two.nii.gz", "marks/one.nii.gz")
    named = {"p1": {"images": ["raw/one.nii.gz", "raw/two.nii.gz"], "label": "marks/one.nii.gz"}}
    dataset_json(tmp_path, dataset=named, labels={"background": 0, "zone": 1})
    assert found(tmp_path) == [("raw/one.nii.gz", "raw/two.nii.gz", "marks/one.nii.gz", "p1", "")]


def test_nnunets_ignore_label_is_kept(tmp_path: Path) -> None:
    fill(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    dataset_json(tmp_path, labels={"background": 0, "organ": 1, "ignore": 2}, channel_names={"0": "CT"})
    main(["--dataset-dir", str(tmp_path), "--labeled-count", "1"])
    cohort = load_datalist(tmp_path / "datalist.json", tmp_path)
    assert (cohort.labels, cohort.sparse) == ({0: "background", 1: "organ"}, True)
    assert cohort.indices == {0: "background", 1: "organ", 2: "ignore"}
    assert [case["image"] for case in cohort.partly_unlabeled] == [case["image"] for case in cohort.training]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"background": 0, "whole": [1, 2], "core": [2]},
            "whole, core are regions of several classes, which are not supp",
        ),
        (
            {"background": 0, "ignore": 1, "organ": 2},
            r'dataset.json: key "labels": expected "ignore" .* last, .* found background, ignore, organ; name it last',
        ),
    ],
)
def test_what_is_not_supported_of_nnunet_is_said(tmp_path: Path, labels: dict[str, Any], message: str) -> None:
    fill(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    dataset_json(tmp_path, labels=labels, channel_names={"0": "CT"})
    with pytest.raises(DataError, match=message):
        find_classes(tmp_path, find_cases(tmp_path))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "a": 1, "b": 1}, "a different number for each name"),
        ({"0": "background", "1": "a", "01": "b"}, "a different number for each name"),
        ({"0": "background", "1": "a", "2": "a"}, "a different name for each class"),
        ({"background": 1, "a": 2}, "a different name for each class"),
    ],
)
def test_two_classes_in_one_are_refused(tmp_path: Path, labels: dict[str, Any], expected: str) -> None:
    fill(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    dataset_json(tmp_path, labels=labels, channel_names={"0": "CT"})
    message = rf'dataset\.json: expected {expected} .*under "labels", found .*; correct them, or name the .* --labels'
    with pytest.raises(DataError, match=message):
        find_classes(tmp_path, find_cases(tmp_path))


@pytest.mark.parametrize(
    ("labels", "wrong"),
    [
        ({"background": 0, "a": 1.5, "b": 2}, "1.5 for a"),
        ({"background": 0, "a": True, "b": 2}, "true for a"),
        ({"background": 0, "a": 1, "void": -1}, "-1 for void"),
        ({"background": 0, "a": 1, "b": None}, "null for b"),
        ({"background": "0", "a": "1.0"}, '"1.0" for a'),
        ({"0": "background", "1": "a", "\u00b2": "b"}, '"\u00b2" for b'),
        ({"0": "background", "1": "a", "-1": "void"}, '"-1" for void'),
    ],
)
def test_values_of_classes_that_are_no_whole_numbers_are_refused(
    tmp_path: Path, labels: dict[str, Any], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    dataset_json(tmp_path, labels=labels, channel_names={"0": "CT"})
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--dataset-dir", str(tmp_path)])
    message = f'expected a whole number from 0 on for each class under "labels", found {wrong}; correct them, or name'
    assert f"{tmp_path / 'dataset.json'}: {message}" in capsys.readouterr().err
    assert not (tmp_path / "datalist.json").exists()


@pytest.mark.parametrize("labels", [{"background": "0", "a": "1", "b": 2.0}, {"0": "background", "1": "a", "02": "b"}])
def test_values_of_classes_in_other_spellings_are_taken(tmp_path: Path, labels: dict[str, Any]) -> None:
    fill(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    dataset_json(tmp_path, labels=labels)
    assert find_classes(tmp_path, find_cases(tmp_path)).names == ("background", "a", "b")


def test_a_background_that_is_not_listed_is_class_0(tmp_path: Path) -> None:
    fill(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    dataset_json(tmp_path, labels={"a": 1, "b": 2})
    assert find_classes(tmp_path, find_cases(tmp_path)).names == ("background", "a", "b")


def test_files_that_a_dataset_json_lists_must_be_there(tmp_path: Path) -> None:
    fill(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz")
    listed = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in "ab"]
    dataset_json(tmp_path, training=listed)
    message = r"dataset\.json: expected the files of every case, found none called labelsTr/b\.nii\.gz; correct"
    with pytest.raises(DataError, match=message):
        find_cases(tmp_path)
    named = {"a": {"images": ["imagesTr/gone.nii.gz"], "label": "labelsTr/a.nii.gz"}}
    dataset_json(tmp_path, dataset=named)
    with pytest.raises(DataError, match=r"found none called imagesTr/gone\.nii\.gz"):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a JSON file, but it cannot be read: .*; correct it, or take it out"),
        ("[]", "a JSON object, found list; correct it, or take it out"),
        ('{"training": [{"image": "a.nii.gz", "label": ""}]}', '.* under "training", found {.*}; correct the list'),
        ('{"dataset": {"a": {"images": []}}}', '.* for a under "dataset", found {.*}; correct the list'),
    ],
)
def test_a_file_of_another_form_is_refused_with_what_to_do(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=rf"dataset\.json: expected {message}"):
        find_cases(tmp_path)


def test_test_images_of_the_list_are_cases_wherever_they_lie(tmp_path: Path) -> None:
    fill(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/t_0000.nii.gz", "imagesTs/u_0000.nii.gz")
    fill(tmp_path, "testing/d_0000.nii.gz", "testing/e.nii.gz", "marks/e.nii.gz", "marks/u.nii.gz")
    listed: list[Any] = ["./testing/d.nii.gz", {"image": "testing/e.nii.gz", "label": "./marks/e.nii.gz"}]
    listed += ["imagesTr/../imagesTs/t.nii.gz", {"image": "./imagesTs/u.nii.gz", "label": "marks/u.nii.gz"}]
    dataset_json(tmp_path, training=[{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}], test=listed)
    assert found(tmp_path) == [
        ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "a", ""),
        ("testing/d_0000.nii.gz", "", "d", "unlabeled"),
        ("testing/e.nii.gz", "marks/e.nii.gz", "e", "test"),
        ("imagesTs/t_0000.nii.gz", "", "t", "unlabeled"),
        ("imagesTs/u_0000.nii.gz", "marks/u.nii.gz", "u", "test"),
    ]
    assert find_unused_files(tmp_path, find_cases(tmp_path)) == {}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("./imagesTs/d1.nii.gz", r"the image imagesTs/d1\.nii\.gz, found neither it nor d1_0000\.nii\.gz; correct the"),
        ("./else/d2.nii.gz", r"the image else/d2\.nii\.gz, found neither it nor d2_0000\.nii\.gz; correct the list or"),
        (
            {"image": "imagesTs/b.nii.gz", "label": "gone.nii.gz"},
            r"the files of every case, found none called gone\.nii\.gz; correct the list or add the files",
        ),
        (
            {"label": "labelsTr/a.nii.gz"},
            r'a path, or \{"image": path\}, for each image under "test", found .*; correct',
        ),
        (
            "imagesTr/a.nii.gz",
            r"each image in one list, found imagesTr/a_0000\.nii\.gz in an earlier one .*; take them out of",
        ),
        (7, r'a path, or \{"image": path\}, for each image under "test", found 7; correct the list'),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_test_images_that_are_not_there_or_trained_on_are_refused(
    tmp_path: Path, entry: Any, message: str, training: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b_0000.nii.gz")
    listed = [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]
    dataset_json(tmp_path, test=[entry], **({"training": listed} if training else {}))
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--dataset-dir", str(tmp_path)])
    assert re.search(rf"dataset\.json: expected {message}", capsys.readouterr().err)
    assert not (tmp_path / "datalist.json").exists()


@pytest.mark.parametrize("listed", [True, False])
def test_a_case_of_nnunet_that_lacks_a_channel_is_named(tmp_path: Path, listed: bool) -> None:
    """Where another has it, or where none has but the file says that there is one."""
    fill(tmp_path, *(f"imagesTr/{name}.nii.gz" for name in ("a_0000", "b_0000")))
    fill(tmp_path, "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    if listed:
        fill(tmp_path, "imagesTr/a_0001.nii.gz")
        dataset_json(
            tmp_path, training=[{"image": f"imagesTr/{c}.nii.gz", "label": f"labelsTr/{c}.nii.gz"} for c in "ab"]
        )
    else:
        dataset_json(tmp_path, channel_names={"0": "T1", "1": "T2"}, labels={"background": 0, "a": 1})
    lacking = "b_0001" if listed else "a_0001, b_0001"
    with pytest.raises(DataError, match=f"expected 2 channels of every case, found none called {lacking}; add"):
        find_cases(tmp_path)


def test_values_of_classes_with_gaps_are_taken_over(tmp_path: Path) -> None:
    fill(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    listed = [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]
    dataset_json(tmp_path, training=listed, labels={"0": "background", "1": "edema", "4": "core"})
    classes = find_classes(tmp_path, find_cases(tmp_path))
    assert (classes.names, classes.values) == (("background", "edema", "core"), (0, 1, 4))


FRAMES = [f"patient{patient:03d}_frame{frame:02d}" for patient in range(6) for frame in (1, 12)]


@pytest.mark.parametrize("options", [(), ("--patient-pattern", "^patient.")])
def test_a_stated_patient_is_the_patient(tmp_path: Path, options: tuple[str, ...]) -> None:
    fill(tmp_path, *(f"{part}/{name}.nii.gz" for name in FRAMES for part in ("imagesTr", "labelsTr")))
    fill(tmp_path, *(f"{part}/patient9{name}.nii.gz" for name in "12" for part in ("imagesTs", "labelsTs")))
    listed = [
        {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz", "patient": int(n[7:10])} for n in FRAMES
    ]
    test = [{"image": f"./imagesTs/patient9{name}.nii.gz", "patient": " Zoe\u0301 "} for name in "12"]
    dataset_json(tmp_path, training=listed, test=test, labels=["background", "ventricle", "wall"])
    main(["--dataset-dir", str(tmp_path), "--labeled-count", "2", "--validation-count", "2", *options])
    written = load_datalist(tmp_path / "datalist.json", tmp_path)
    groups = [{case["patient"] for case in cases} for cases in written.splits().values()]
    assert [len(group) for group in groups] == [2, 2, 2, 1]
    assert set().union(*groups) == {*"012345", "Zo\u00e9"}
    assert [len(cases) for cases in written.splits().values()] == [4, 4, 4, 2]
    assert written.labels == {0: "background", 1: "ventricle", 2: "wall"}


@pytest.mark.parametrize("wrong", [["p"], 1.5, True, {"id": 3}])
def test_a_stated_patient_that_is_none_is_refused(tmp_path: Path, wrong: object) -> None:
    fill(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    entry = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", "patient": wrong}
    dataset_json(tmp_path, training=[entry])
    with pytest.raises(DataError, match=r'dataset\.json: expected a name or a whole number under "patient", found \{'):
        find_cases(tmp_path)


def test_four_digits_are_a_name_unless_there_are_channels(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{part}/amos_000{number}.nii.gz" for part in ("imagesTr", "labelsTr") for number in (1, 2, 3)))
    assert [case[-2] for case in found(tmp_path)] == ["amos_0001", "amos_0002", "amos_0003"]
