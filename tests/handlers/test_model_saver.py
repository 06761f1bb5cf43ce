from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from vqseg_bundle.common import NonFiniteError
from vqseg_bundle.handlers import BestModelState, ModelSaver


class Evaluation:
    """An evaluator that reports given scores, with a saver of the best and of the last."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.weights = torch.nn.Linear(1, 1)
        self.engine = Engine(lambda engine, batch: None)
        self.engine.logger.disabled = True
        self.engine.state.key_metric_name = "dice"
        options = options or {"save_key_metric": True, "key_metric_filename": "model.pt"}
        self.saver = ModelSaver(str(folder), {"model": self.weights}, **options)
        self.saver.attach(self.engine)

    def report(self, score: float, weight: float | None = None) -> None:
        torch.nn.init.constant_(self.weights.weight, score if weight is None else weight)
        self.engine.state.metrics = {"dice": score}
        self.saver.metrics_completed(self.engine)


def saved(folder: Path) -> float:
    return torch.load(folder / "model.pt", weights_only=True)["weight"].item()


def test_a_failed_write_leaves_the_former_weights(tmp_path, monkeypatch):
    evaluation = Evaluation(tmp_path)
    evaluation.report(0.5)

    def fail(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        evaluation.report(0.75)
    assert saved(tmp_path) == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_weights_that_are_not_finite_leave_the_former_ones(tmp_path):
    evaluation = Evaluation(tmp_path)
    evaluation.report(0.5)
    with pytest.raises(NonFiniteError, match=r"model\.pt is not written: weight holds numbers that are not finite"):
        evaluation.report(0.75, weight=math.nan)
    assert saved(tmp_path) == 0.5


def test_the_last_weights_are_saved_at_the_end_and_not_at_a_failure(tmp_path):
    evaluation = Evaluation(tmp_path, save_final=True, final_filename="model.pt")
    torch.nn.init.constant_(evaluation.weights.weight, 0.25)
    evaluation.engine.run([0])
    assert saved(tmp_path) == 0.25
    torch.nn.init.constant_(evaluation.weights.weight, 0.5)
    evaluation.engine.add_event_handler(Events.STARTED, lambda: [][0])
    with pytest.raises(IndexError, match="list index"):
        evaluation.engine.run([0])
    assert saved(tmp_path) == 0.25


def test_names_with_scores_replace_the_former_best(tmp_path):
    evaluation = Evaluation(tmp_path, save_key_metric=True)
    for score in (0.5, 0.25, 0.75):
        evaluation.report(score)
    assert [path.name for path in tmp_path.iterdir()] == ["model_key_metric=0.7500.pt"]


def test_a_score_whose_weights_are_lost_is_forgotten(tmp_path, caplog):
    before = Evaluation(tmp_path)
    before.report(0.75)
    state = BestModelState([before.saver]).state_dict()
    (tmp_path / "model.pt").write_bytes(b"")
    after = Evaluation(tmp_path)
    BestModelState([after.saver]).load_state_dict(state)
    assert "model.pt: expected weights, found an empty file. Its score is forgotten" in caplog.text
    after.report(0.5)
    assert saved(tmp_path) == 0.5
