"""Snapshots of the codebook during a training."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from support.bundle_runs import TINY, CohortFolder, Trained, run_here
from torch import Tensor

from vqseg_bundle.engines import PseudoLabels
from vqseg_bundle.handlers import CodebookSnapshots, LearningWatch

LENGTH = 4


def _probabilities(*classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor([classes]), 3).movedim(2, 1).float()


HEALTHY = (_probabilities(0, 1), 0.5, 0.9)


def watched(
    course: list[tuple[torch.Tensor | None, float, float]], epochs: int = 3, share: float = 1.0, **options: Any
) -> Engine:
    """An engine whose n-th iteration has the n-th pseudo-labels, unlabelled loss and (at epoch ends) codebook usage.

    ``share`` of its pseudo-labels is confident.
    """

    def step(engine: Engine, batch: int) -> dict[str, Any]:
        probabilities, loss, usage = course[min(engine.state.iteration, len(course)) - 1]
        engine.state.metrics |= {"codebook_usage": usage, "pseudo_label_share": share, "pseudo_label_confidence": 0.6}
        pseudo = None if probabilities is None else PseudoLabels(probabilities, torch.zeros(0))
        return {"pseudo_labels": pseudo, "terms": SimpleNamespace(unlabeled_segmentation=torch.tensor(loss))}

    engine = Engine(step)
    LearningWatch(**options).attach(engine)
    engine.run(range(LENGTH), max_epochs=epochs)
    return engine


def test_a_healthy_training_is_not_warned_of(caplog):
    watched([HEALTHY])
    assert caplog.records == []


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            (_probabilities(2, 2), 0.5, 0.9),
            r"epoch 2: the pseudo-labels of all unlabelled images are of one class, 2: ",
        ),
        ((_probabilities(0, 1), 0.0, 0.9), r"epoch 2: the loss on unlabelled images was 0 throughout"),
        ((_probabilities(0, 1), 0.5, 0.09), r"epoch 2: 9.0 % of the codebook were used"),
    ],
    ids=["one class", "no loss", "few codes"],
)
def test_each_is_warned_of_once_and_not_in_the_first_epoch(caplog, state, message):
    watched([state], epochs=4)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(message)


def test_pseudo_labels_that_are_never_sure_are_warned_of_once(caplog):
    watched([HEALTHY], epochs=4, share=0.0099, least_confident=0.01)
    (record,) = caplog.records
    message = "epoch 2: 0.99 % of the pseudo-labels are as sure as confidence_threshold asks"
    assert record.getMessage().startswith(message)
    assert "towards their mean confidence, now 0.60" in record.getMessage()


@pytest.mark.parametrize(
    "options",
    [
        {"share": 0.01, "least_confident": 0.01},
        {"share": 0.0},
        {"share": 0, "least_confident": 1, "unlabeled_after": 99},
    ],
    ids=["enough", "of a loss that takes all", "before its time"],
)
def test_enough_that_are_sure_or_a_loss_that_takes_all_is_not_warned_of(caplog, options):
    watched([HEALTHY], **options)
    assert caplog.records == []


@pytest.mark.parametrize(
    "overlay, threshold, warned",
    [("", 0.9999, 1), ("", 0.0, 0), ("baselines/mean_teacher.json", 0.9999, 0)],
    ids=["unsure", "all are taken", "no threshold in the loss"],
)
def test_a_training_whose_pseudo_labels_are_never_sure_warns(
    shared_cohort: CohortFolder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    overlay: str,
    threshold: float,
    warned: int,
) -> None:
    """With the default mixer, which pastes labels, that are certain, into unlabelled images."""
    configs = ["train.json", *([overlay] if overlay else [])]
    where = {"dataset_dir": str(shared_cohort.root), "output_dir": str(tmp_path / "out")}
    changes = {"iterations_per_epoch": 2, "ramp_up_share": 0.0, "confidence_threshold": threshold}
    run_here("training", *configs, **where, **{**TINY, **changes})
    found = [
        text for text in caplog.messages if "of the pseudo-labels are as sure as confidence_threshold asks" in text
    ]
    assert len(found) == warned
    assert all(text.startswith("epoch 2: 0 % of") for text in found)


def test_all_three_are_told_apart(caplog):
    watched([(_probabilities(0, 0), 0.0, 0.0)])
    assert len(caplog.records) == 3


def test_one_exception_in_an_epoch_is_enough(caplog):
    """One image with another class, one step with a loss; a codebook at a tenth."""
    course = [(_probabilities(0, 0), 0.0, 0.1)] * 12
    course[5] = (_probabilities(0, 1), 0.0, 0.1)
    course[6] = (_probabilities(0, 0), 1e-30, 0.1)
    course[10] = (_probabilities(1, 1), 0.1, 0.1)
    watched(course)
    assert caplog.records == []


def test_each_epoch_of_one_class_of_its_own_is_one_of_one_class(caplog):
    watched([(_probabilities(0, 0), 0.5, 1.0)] * 8 + [(_probabilities(1, 1), 0.5, 1.0)])
    assert "epoch 2: the pseudo-labels of all unlabelled images are of one class, 0" in caplog.text


def test_epochs_that_begin_before_their_time_do_not_count(caplog):
    bad = (_probabilities(0, 0), 0.0, 0.0)
    watched([bad], epochs=2, unlabeled_after=5, codebook_after=5)
    assert caplog.records == []
    watched([bad], epochs=3, unlabeled_after=5, codebook_after=5)
    assert [record.getMessage()[:7] for record in caplog.records] == ["epoch 3"] * 3


def test_without_unlabelled_images_or_codebook_there_is_nothing_to_warn_of(caplog):
    watched([(None, 0.0, 1.0)])
    assert caplog.records == []


def test_a_short_last_epoch_says_too_little(caplog):
    bad = (_probabilities(0, 0), 0.0, 0.0)
    engine = Engine(lambda engine, batch: None)
    watch = LearningWatch()
    watch.attach(engine)
    engine.add_event_handler(
        Events.ITERATION_COMPLETED(once=6), lambda: engine.terminate_epoch()
    )  # the second epoch's second step
    outputs = {"pseudo_labels": PseudoLabels(bad[0], torch.zeros(0))}
    outputs["terms"] = SimpleNamespace(unlabeled_segmentation=torch.tensor(0.0))
    engine._process_function = lambda engine, batch: outputs
    engine.run(range(LENGTH), max_epochs=2)
    assert engine.state.iteration == 6
    assert caplog.records == []


@pytest.mark.parametrize(("reliance", "warnings"), [(0.049, 1), (0.05, 0)])
def test_a_decoder_that_ignores_its_codes_is_warned_of_once(caplog, reliance, warnings):
    engine = Engine(lambda engine, batch: {"pseudo_labels": None})
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: engine.state.metrics.update(code_reliance=reliance))
    LearningWatch().attach(engine)
    engine.run(range(LENGTH), max_epochs=4)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == warnings
    assert all(text.startswith("epoch 2: with another image's codes, 4.9 % of the prediction") for text in messages)


@pytest.mark.parametrize("name", ["least_usage", "least_reliance", "least_confident"])
def test_a_share_outside_its_bounds_is_refused(name):
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\], got 2"):
        LearningWatch(**{name: 2})


class Step(NamedTuple):
    """What is read of the student's output."""

    indices: Tensor
    codebook: Tensor


def run(handler: CodebookSnapshots, iterations: int) -> None:
    """Step n picks code n modulo 4 twice, of a codebook filled with n."""

    def step(engine: Engine, batch: int) -> dict[str, Step]:
        number = engine.state.iteration
        return {"student": Step(torch.full((1, 1, 2), number % 4), torch.full((4, 3), float(number)))}

    engine = Engine(step)
    handler.attach(engine)
    engine.run(range(iterations))


def read(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.name: dict(np.load(path)) for path in sorted(folder.iterdir())}


def test_points_codebooks_and_counts_by_hand(tmp_path: Path) -> None:
    run(CodebookSnapshots(tmp_path / "codebook", 20, shares=(0.0, 0.1, 0.5, 1.0), window=4), 20)
    found = read(tmp_path / "codebook")
    assert list(found) == [f"iteration_{number:06d}.npz" for number in (1, 2, 10, 20)]
    assert [int(each["window"]) for each in found.values()] == [1, 1, 4, 4]
    assert [each["counts"].tolist() for each in found.values()] == [
        [0, 2, 0, 0],
        [0, 0, 2, 0],
        [2, 2, 2, 2],
        [2, 2, 2, 2],
    ]
    assert [each["codebook"][0, 0].item() for each in found.values()] == [1.0, 2.0, 10.0, 20.0]
    assert {each["codebook"].dtype for each in found.values()} == {np.dtype(np.float16)}
    assert {int(each["total_iterations"]) for each in found.values()} == {20}


def test_steps_outside_the_window_do_not_count(tmp_path: Path) -> None:
    run(CodebookSnapshots(tmp_path, 10, shares=(1.0,), window=3), 10)
    (found,) = read(tmp_path).values()
    assert found["counts"].tolist() == [2, 2, 2, 0]  # of the steps 8, 9 and 10


def test_files_that_cannot_be_written_are_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        run(CodebookSnapshots(tmp_path / "file", 4), 4)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("The training goes on without snapshots of the codebook in")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": [0.5, 1.5]}, r"shares must lie in \[0, 1\], got \[0.5, 1.5\]"),
        ({"window": 0}, "window must be at least 1 iteration, got 0"),
    ],
)
def test_arguments_are_checked(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodebookSnapshots(tmp_path, 10, **changes)


def test_a_training_by_command_leaves_snapshots_of_its_codebook(trained: Trained) -> None:
    found = read(trained.output_dir / "codebook")
    assert [int(each["iteration"]) for each in found.values()] == [1, 2, 3, 4, 6]
    first = found["iteration_000001.npz"]
    assert first["codebook"].shape == (32, 8)
    # 2 labelled and 2 unlabelled patches of 32 x 32 at stride 4
    assert first["counts"].sum() == 4 * 64
    np.testing.assert_allclose(np.linalg.norm(first["codebook"].astype(float), axis=1), 1.0, atol=2e-3)
