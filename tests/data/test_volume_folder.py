"""Which volumes of a folder are images to segment, and what the log says of the others."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from vqseg_bundle.data import DataError, list_volumes
from vqseg_bundle.data.layouts.found_case import unique_case_ids


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(root: Path, **options: str) -> list[str]:
    return [Path(case["image"]).relative_to(root).as_posix() for case in list_volumes(root, **options)]


LEFT_OUT = {
    "an earlier inference": ("out/predictions/a_pred.nii.gz", "results of earlier runs"),
    "an evaluation beside an inference": ("out/evaluation/predictions/a_pred.nii.gz", "results of earlier runs"),
    "results put aside": ("out/previous-20260101-000000/a_pred.nii.gz", "results of earlier runs"),
    "labels": ("labels/a.nii.gz", "labels"),
    "labels of nnU-Net": ("labelsTr/a.nii.gz", "labels"),
    "labels in capitals": ("study/Labels/final/a.nii.gz", "labels"),
    "masks": ("masks/a.png", "labels"),
    "labels of a split": ("masks_test/a.nii.gz", "labels"),
    "a segmentation": ("Segmentations/a.nrrd", "labels"),
    "a label beside its image": ("images/a_seg.nii.gz", "labels of files beside them"),
    "a label by its whole name": ("images/segmentation.nii.gz", "labels of files beside them"),
    "a label of another ending": ("images/x_1_gt.nii.gz", "labels of files beside them"),
    "a prediction beside its image": ("images/a_pred.nii.gz", "predictions of other files"),
    "a preview": ("images/a.png", "previews of the volumes beside them"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_is_no_image_is_left_out_and_said(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other, reason = LEFT_OUT[kind]
    touch(tmp_path, "images/a.nii.gz", "images/b_pred.nii.gz", "images/x_1_ct.nii.gz", "images/x_10.nii.gz", other)
    with caplog.at_level(logging.INFO):
        # b_pred is no prediction of another file: it may be what somebody calls an image
        kept = ["a.nii.gz", "b_pred.nii.gz", "x_10.nii.gz", "x_1_ct.nii.gz"]
        assert found(tmp_path) == [f"images/{name}" for name in kept]
    (said,) = [record.message for record in caplog.records]
    assert said.startswith(f"left out as {reason}")
    assert Path(other).parts[0] in said


def test_labels_in_folders_of_patients_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "p1/image.nii.gz", "p1/label.nii.gz", "p2/p2_ct.nii.gz", "p2/p2_seg.nii.gz", "p3/mask.nii.gz")
    # nothing lies beside p3's: that folder may be of masks that somebody wants to segment
    assert found(tmp_path) == ["p1/image.nii.gz", "p2/p2_ct.nii.gz", "p3/mask.nii.gz"]


def test_a_folder_that_is_named_is_what_was_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "labels/a.nii.gz", "predictions/a_pred.nii.gz")
    assert found(tmp_path / "labels") == ["a.nii.gz"]
    assert found(tmp_path / "predictions") == ["a_pred.nii.gz"]
    message = (
        r"holds no volume to segment: .* Left out as labels: .*labels; results of earlier runs: .*predictions\. To "
    )
    with pytest.raises(DataError, match=message + "segment one of these folders, name it itself"):
        list_volumes(tmp_path)


def test_a_link_to_a_folder_above_adds_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "deep/b.nii.gz")
    (tmp_path / "self").symlink_to(tmp_path)
    (tmp_path / "deep" / "up").symlink_to("..")
    (tmp_path / "deep2").symlink_to(tmp_path / "deep")
    assert found(tmp_path) == ["a.nii.gz", "deep/b.nii.gz"]


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/b.nii.gz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "there").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path / "in") == ["there/b.nii.gz"]


def test_a_folder_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.nii.gz", "locked/b.nii.gz", "z.nii.gz")
    iterate = Path.iterdir

    def refuse(folder: Path) -> object:
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return iterate(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with caplog.at_level(logging.INFO):
        assert found(tmp_path) == ["a.nii.gz", "z.nii.gz"]
    assert f"folders that cannot be read (Permission denied): {tmp_path / 'locked'}" in caplog.text


def test_an_output_folder_among_the_images_hides_none_of_them(tmp_path: Path) -> None:
    """Whatever else lies there: a training's picture is a result, too."""
    touch(tmp_path, "one/a.png", "one/predictions/a_pred.nii.gz", "two/b.png", "two/progress.png", "two/run.json")
    assert found(tmp_path) == ["one/a.png", "two/b.png"]
    touch(tmp_path, "three/progress.png")
    assert found(tmp_path) == ["one/a.png", "three/progress.png", "two/b.png"], "no training's"


LINKS = {
    "the folder": (".", "in/self"),
    "a folder above it": ("..", "in/up"),
    "one above that": ("../..", "in/deep/upper"),
    "a folder that comes later": ("z", "in/0"),
    "a file there": ("a.nii.gz", "in/other.nii.gz"),
    "nothing": ("gone", "in/there"),
    "a file that is gone": ("gone.nii.gz", "in/b.nii.gz"),
    "itself": ("loop.nii.gz", "in/loop.nii.gz"),
    "labels": ("../masks", "in/images"),
}


@pytest.mark.parametrize("kind", LINKS)
def test_a_link_adds_nothing_that_is_there_already(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target, link = LINKS[kind]
    touch(tmp_path, "in/a.nii.gz", "in/deep/b.nii.gz", "in/z/c.nii.gz", "beside/d.nii.gz", "masks/a.nii.gz")
    (tmp_path / link).symlink_to(target)
    with caplog.at_level(logging.INFO):
        assert found(tmp_path / "in") == ["a.nii.gz", "deep/b.nii.gz", "z/c.nii.gz"]
    assert f": {tmp_path / link}" in caplog.text


def test_links_out_of_the_folder_are_followed_once(tmp_path: Path) -> None:
    """Neither to what holds them nor to what holds the folder that was named."""
    touch(tmp_path, "far/else/b.nii.gz", "far/else/deep/c.nii.gz", "far/x.nii.gz", "near/y.nii.gz", "near/in/a.nii.gz")
    touch(tmp_path, "store/1")
    root, there = tmp_path / "near" / "in", tmp_path / "far" / "else"
    (there / "up").symlink_to("..")
    (there / "back").symlink_to("../../near")
    for name, target in (("y", there / "deep"), ("x", there), ("z", there)):
        (root / name).symlink_to(target)
    for name in ("d", "e"):
        (root / f"{name}.nii.gz").symlink_to(tmp_path / "store" / "1")
    assert found(root) == ["a.nii.gz", "d.nii.gz", "e.nii.gz", "x/b.nii.gz", "x/deep/c.nii.gz"]


def test_a_prediction_is_known_by_its_image_anywhere_below(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "old/a_pred.nii.gz", "old/b_pred.nii.gz")
    assert found(tmp_path) == ["images/a.nii.gz", "old/b_pred.nii.gz"]


def test_where_there_is_nothing_the_message_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected files that end in \.nii, .* found nothing\. Name the folder"):
        list_volumes(tmp_path)
    touch(tmp_path, "notes.txt", "scans/x.foo")
    with pytest.raises(DataError, match=r"found notes\.txt, scans/\. Name the folder that holds the images"):
        list_volumes(tmp_path)
    with pytest.raises(DataError, match=r"notes\.txt' is no volume: expected files that end in .nii"):
        list_volumes(tmp_path / "notes.txt")
    with pytest.raises(
        DataError, match=r"'gone' is neither .*\. Relative paths start at the working directory, /.*\.$"
    ):
        list_volumes("gone")


def test_names_too_long_for_a_file_are_cut_and_stay_different() -> None:
    uids = "/".join(["1.2.840.113619.2.55.3.604688119.971.1267.3.12345.67890.123456789"] * 4)
    paths = [f"/{top}/{uids}/scan.nii.gz" for top in "abc"] + ["/d/short.nii.gz", "/e/" + "\u00e4" * 120 + ".nii.gz"]
    found = unique_case_ids(paths)
    assert [len(name.encode()) for name in found] == [200, 200, 200, 5, 199]
    assert len(set(found)) == 5
    assert [name[:10] for name in found] == ["a_1.2.840.", "b_1.2.840.", "c_1.2.840.", "short", "\u00e4" * 10]
    assert all(re.search("_[0-9a-f]{8}$", found[place]) for place in (0, 1, 2, 4))
    assert unique_case_ids(paths[::-1]) == found[::-1]
    assert unique_case_ids([paths[0]] * 2 + paths[1:2])[1] == f"{found[0]}_2"
