"""Which volumes of a folder are images to segment, and what the log says of the others."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from vqseg_bundle.data import DataError, list_volumes


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
    "a segmentation": ("Segmentations/a.nrrd", "labels"),
    "a label beside its image": ("images/a_seg.nii.gz", "labels or predictions of files beside them"),
    "a prediction beside its image": ("images/a_pred.nii.gz", "labels or predictions of files beside them"),
    "a preview": ("images/a.png", "previews of the volumes beside them"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_is_no_image_is_left_out_and_said(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other, reason = LEFT_OUT[kind]
    touch(tmp_path, "images/a.nii.gz", "images/b_pred.nii.gz", other)
    with caplog.at_level(logging.INFO):
        # b_pred is no prediction of a file beside it: it may be what somebody calls an image
        assert found(tmp_path) == ["images/a.nii.gz", "images/b_pred.nii.gz"]
    (said,) = [record.message for record in caplog.records]
    assert said.startswith(f"left out as {reason}")
    assert Path(other).parts[0] in said


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


@pytest.mark.parametrize("inside", ["", "out", "deep/out"])
def test_the_output_folder_is_no_input(inside: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", f"{inside or '.'}/predictions/a_pred.nii.gz")
    assert found(tmp_path, output_dir=str(tmp_path / inside)) == ["a.nii.gz"]
    shutil.rmtree(tmp_path / inside / "predictions")
    assert found(tmp_path, output_dir=str(tmp_path / inside)) == ["a.nii.gz"]
