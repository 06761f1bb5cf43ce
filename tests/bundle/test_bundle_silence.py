"""Whole trainings that go wrong: they stop at once, keep what was good, say what and where, and can be gone on with."""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from support.bundle_runs import TINY, CohortFolder, Trained, refused, run_here
from support.processes import folder_held

from vqseg_bundle.common import named_tensors, non_finite_names

TRAINING = ("training", "train.json")


def places(cohort: CohortFolder, output_dir: Path) -> dict[str, Any]:
    return {"dataset_dir": str(cohort.root), "output_dir": str(output_dir), **TINY}


def iteration(path: Path) -> int:
    return torch.load(path, weights_only=True)["engine"]["iteration"]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _in_the_loss(trainer: Any) -> None:
    def spoil(module: Any, inputs: Any, terms: Any) -> Any:
        bad = terms.commitment * (math.nan if trainer.state.iteration == 5 else 1.0)
        return terms._replace(commitment=bad, total=terms.total + 0 * bad)

    trainer.loss_function.register_forward_hook(spoil)


def _in_a_weight(trainer: Any) -> None:
    def spoil(*_: Any) -> None:
        if trainer.state.iteration == 5:
            trainer.student.code_projection.weight.data[0] = math.inf

    trainer.optimizer.register_step_post_hook(spoil)


def _in_a_batch(trainer: Any) -> None:
    def spoil(engine: Any) -> None:
        engine.state.batch["strong"][1, 0, 0, 0] = math.nan

    trainer.add_event_handler(Events.ITERATION_STARTED(once=5), spoil)


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (
            _in_the_loss,
            r"the loss is nan \(terms: commitment nan\)\. .*labelled .*case_[01]\.nii\.gz.*unlabelled .*case_",
        ),
        (
            _in_a_weight,
            r"not finite: network\.code_projection\.weight\. .*labelled .*case_[01]\.nii\.gz.*unlabelled .*case_",
        ),
        (_in_a_batch, r"the loss is nan .*Not finite after preprocessing: \S*case_[01]\.nii\.gz \(labelled\)\. Mend"),
    ],
    ids=["loss", "weight", "batch"],
)
def test_a_training_stops_in_its_iteration_and_goes_on_from_its_last_good_epoch(
    shared_cohort: CohortFolder, tmp_path: Path, plant: Callable[[Any], None], message: str
) -> None:
    def spoil(parser: ConfigParser) -> None:
        trainer = parser.get_parsed_content("train#trainer")
        # another test may have silenced all trainers of this class
        trainer.logger.disabled, trainer.logger.propagate = False, True
        trainer.logger.setLevel(logging.NOTSET)
        plant(trainer)

    settings = places(shared_cohort, tmp_path)
    with pytest.raises(SystemExit, match=rf"Training stops in iteration 5: .*{message}.*--resume true") as caught:
        run_here(*TRAINING, **settings, before=spoil)
    assert isinstance(caught.value.code, str)
    log = (tmp_path / "training.log").read_text()
    assert "Training stops in iteration 5" in log
    assert "Traceback" not in log
    for name in ("model.pt", "resume.pt"):
        assert non_finite_names(named_tensors(torch.load(tmp_path / name, weights_only=True))) == []
    assert iteration(tmp_path / "resume.pt") == 4
    run_here(*TRAINING, **settings, resume=True)
    assert iteration(tmp_path / "resume.pt") == 6
    assert iteration(tmp_path / "resume.previous.pt") == 4


def test_padding_that_no_float32_holds_stops_the_first_step(cohort: CohortFolder, tmp_path: Path) -> None:
    """With the headers alone looked at before."""
    image = nib.load(cohort.root / "images" / "case_1.nii.gz")
    voxels = np.asarray(image.dataobj, dtype=np.float64)
    voxels[:4] = -1.79e308
    cohort.write("images/case_1.nii.gz", nib.Nifti1Image(voxels, image.affine))
    output_dir = tmp_path / "out"
    message = r"Training stops in iteration \d+: the loss is nan .*after preprocessing: \S*case_1\.nii\.gz \(labelled\)"
    settings = {key: value for key, value in places(cohort, output_dir).items() if key != "output_dir"}
    refused(output_dir, message, *TRAINING, **{**settings, "data_check": "headers", "labeled_batch_size": 8})


def test_a_second_training_into_a_folder_at_work_is_refused(trained: Trained, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    shutil.copytree(trained.output_dir, output_dir)
    with folder_held(output_dir) as holder:
        before = content(output_dir)
        for resume in (False, True):
            with pytest.raises(SystemExit, match=rf"another training \(process {holder}\) is at work in it"):
                run_here(*TRAINING, **places(trained.cohort, output_dir), resume=resume)
        assert content(output_dir) == before
        where = {"dataset_dir": str(trained.cohort.root), "output_dir": str(output_dir), "device": "cpu"}
        run_here("evaluating", "train.json", "evaluate.json", **where)


def test_a_finished_training_gives_its_folder_back(trained: Trained) -> None:
    assert (trained.output_dir / ".lock").read_text() == ""


def test_a_broken_resume_file_is_named_and_the_one_before_gone_on_from(trained: Trained, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    shutil.copytree(trained.output_dir, output_dir)
    path = output_dir / "resume.pt"
    path.write_bytes(path.read_bytes()[:20000])
    run_here(*TRAINING, **places(trained.cohort, output_dir), resume=True)
    log = (output_dir / "training.log").read_text()
    assert f"{path}: expected weights, found a file that is cut off or damaged. Going on from the file before" in log
    assert f"resumed {output_dir / 'resume.previous.pt'} after iteration 4" in log
    assert iteration(path) == 6


@pytest.mark.parametrize("name", ["resume.pt", "resume.previous.pt", "model.pt"])
def test_a_folder_in_place_of_a_file_to_be_saved_is_refused_at_the_start(
    trained: Trained, tmp_path: Path, name: str
) -> None:
    output_dir = tmp_path / "out"
    shutil.copytree(trained.output_dir, output_dir)
    (output_dir / name).unlink()
    (output_dir / name).mkdir()
    before = content(output_dir)
    message = rf"resume: {output_dir / name}: expected a file of weights, found a folder, .*\. Move it away; the"
    with pytest.raises(SystemExit, match=message):
        run_here(*TRAINING, **places(trained.cohort, output_dir), resume=True)
    assert content(output_dir) == before


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _with_nan(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["code_projection.weight"][0] = math.nan
    torch.save(state, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_empty, r"expected weights, found an empty file\. Copy the file again"),
        (_with_nan, r"expected finite weights, found NaN or infinity in code_projection\.weight\. Copy the file again"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(
    trained: Trained, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(trained.output_dir, folder)
    spoil(folder / "model.pt")
    named = rf"{re.escape(str(folder / 'model.pt'))}: {message}"
    given = {"dataset_dir": str(trained.cohort.root / "images"), "checkpoint": str(folder / "model.pt")}
    refused(tmp_path / "out", named, "inference", "inference.json", **given)
    given["dataset_dir"] = str(trained.cohort.root)
    refused(tmp_path / "out", named, "evaluating", "train.json", "evaluate.json", **given)
    before = content(folder)
    # a training at its end does not write them again, one epoch before it does
    with pytest.raises(SystemExit, match=r"(?s)model\.pt: expected .*has come to its end and would not write it again"):
        run_here(*TRAINING, **places(trained.cohort, folder), resume=True)
    assert content(folder) == before
    (folder / "resume.pt").unlink()
    run_here(*TRAINING, **places(trained.cohort, folder), resume=True)
    assert non_finite_names(torch.load(folder / "model.pt", weights_only=True).items()) == []
    # nor is it refused where no validation chooses the weights: it writes them when it ends
    spoil(folder / "model.pt")
    run_here(*TRAINING, **places(trained.cohort, folder), resume=True, **{"validate#dataset#data": []})
    assert non_finite_names(torch.load(folder / "model.pt", weights_only=True).items()) == []


def test_a_healthy_training_is_not_warned_of(trained: Trained) -> None:
    log = (trained.output_dir / "training.log").read_text()
    assert "of one class" not in log
    assert "codebook were used" not in log


def test_every_training_watches_what_it_learns(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    """No pseudo-label is as sure as 0.9999; the labels that are pasted among them do not count."""
    settings = {**places(shared_cohort, tmp_path), "max_iterations": 6, "iterations_per_epoch": 2}
    run_here(*TRAINING, **settings, confidence_threshold=0.9999)
    assert "epoch 2: 0 % of the pseudo-labels are as sure as" in (tmp_path / "training.log").read_text()
