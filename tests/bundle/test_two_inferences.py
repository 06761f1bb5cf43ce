"""Two evaluations or two inferences into one folder: the second is refused while the first runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.bundle_runs import Trained, run_here
from support.processes import folder_held

from vqseg_bundle.bundle import segment

INFERENCE, EVALUATION = ("inference", "inference.json"), ("evaluating", "train.json", "evaluate.json")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def out(evaluated: Trained, tmp_path: Path) -> Path:
    """A training's folder with an evaluation and an inference."""
    shutil.copytree(evaluated.output_dir, tmp_path / "out")
    segment(evaluated.cohort.root / "images", tmp_path / "out", device="cpu")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("held", "file", "refused", "allowed"),
    [
        (".", ".evaluation.lock", EVALUATION, INFERENCE),
        ("inference", ".inference.lock", INFERENCE, EVALUATION),
    ],
    ids=["evaluation", "inference"],
)
def test_the_second_is_refused_and_changes_nothing(
    trained: Trained, out: Path, held: str, file: str, refused: tuple[str, ...], allowed: tuple[str, ...]
) -> None:
    """The other kind, whose files are others, is not."""
    keys = {"output_dir": str(out), "device": "cpu"}
    source = {EVALUATION: str(trained.cohort.root), INFERENCE: str(trained.cohort.root / "images")}
    with folder_held(out / held, file) as holder:
        before = content(out)
        with pytest.raises(
            SystemExit, match=rf"another {file[1:-5]} \(process {holder}\) is at work in it\. Wait until"
        ):
            run_here(*refused, **keys, dataset_dir=source[refused])
        assert content(out) == before
        run_here(*allowed, **keys, dataset_dir=source[allowed])
        assert before.items() - content(out).items() != set(), "the earlier results were moved aside"
    run_here(*refused, **keys, dataset_dir=source[refused])
    for lock in (out / ".evaluation.lock", out / "inference" / ".inference.lock"):
        assert lock.read_text() == "", "the folder is given back"


def test_a_folder_is_held_while_volumes_are_segmented_and_given_back_whatever_happens(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, lock = trained.cohort.root / "images", tmp_path / ".inference.lock"
    place = {"checkpoint": str(trained.output_dir / "model.pt"), "device": "cpu"}
    found = []

    def look(*_: object) -> None:
        found.append(lock.read_text())
        raise RuntimeError("looked")

    for _ in range(2):
        segment(images, tmp_path, **place)
        assert lock.read_text() == ""
    monkeypatch.setattr("vqseg_bundle.data.NameByCased.__call__", look)
    with pytest.raises(RuntimeError, match="Failed to evaluate"):
        segment(images, tmp_path, **place)
    assert found[0].startswith("process ")
    assert lock.read_text() == ""
