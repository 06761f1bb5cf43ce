"""Progress in a log, the announcement of a last pass, and the loss terms that a log shows."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine

from vqseg_bundle.handlers import RunWhenCompleted, TrainingEstimate, TrainingProgress, nonzero_loss_terms
from vqseg_bundle.handlers import training_hooks as hooks
from vqseg_bundle.losses import LossTerms


def test_a_log_has_a_line_a_minute_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(hooks, "time", clock)

    def step(engine: Engine, batch: int) -> dict[str, Any]:
        clock.now += 6.0
        return {"loss": torch.tensor(0.25)}

    engine = Engine(step)
    TrainingProgress(40).attach(engine)
    with caplog.at_level(logging.INFO, logger=hooks.__name__):
        engine.run(range(40), max_epochs=1)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "step 2 of 40 (5 %), loss 0.250, 00:12 gone, about 03:48 left"
    assert [line.split()[1] for line in lines] == ["2", "12", "22", "32"]
    assert lines[-1].endswith("03:12 gone, about 00:48 left")


def test_after_a_few_steps_the_log_says_how_long_the_others_take(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten steps of 6 s count, not the three of 60 s before them."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(hooks, "time", clock)
    monkeypatch.setattr(hooks, "_peak_memory_gb", lambda: 1.5)

    def step(engine: Engine, batch: int) -> None:
        clock.now += 60.0 if engine.state.iteration <= 3 else 6.0

    engine = Engine(step)
    TrainingEstimate(103).attach(engine)
    with caplog.at_level(logging.INFO, logger=hooks.__name__):
        engine.run(range(20), max_epochs=2)
    text = "a step takes 6 s: about 09:00 for the 90 left, beside validations; most memory so far 1.50 GB"
    assert caplog.messages == [text]


def test_a_last_pass_is_announced_before_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    course: list[str] = []
    evaluator: Any = SimpleNamespace(run=lambda global_epoch: course.append(caplog.messages[-1]))
    engine = Engine(lambda engine, batch: None)
    RunWhenCompleted(evaluator, "counting").attach(engine)
    with caplog.at_level(logging.INFO, logger=hooks.__name__):
        engine.run([0], max_epochs=1)
    assert course == ["counting"]


def test_terms_that_are_off_are_left_out_of_the_log() -> None:
    values = torch.tensor([0.5, 0.25, 0.0, 0.0, 0.0, 0.0, 0.125, -2.0])
    shown = nonzero_loss_terms({"terms": LossTerms(*values)})
    assert shown == {"total": 0.5, "labeled_segmentation": 0.25, "commitment": 0.125, "code_entropy": -2.0}
