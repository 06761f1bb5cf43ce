"""A resumed training remembers the best score, so that a worse model does not replace the saved one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.handlers import CheckpointSaver

from vqseg_bundle.handlers import BestModelState


class Evaluation:
    """An evaluator that reports given scores, with a saver of the best."""

    def __init__(self, directory: Path) -> None:
        self.weights = torch.nn.Linear(1, 1)
        self.engine = Engine(lambda engine, batch: None)
        self.engine.state.key_metric_name = "dice"
        self.saver = CheckpointSaver(
            str(directory), {"model": self.weights}, save_key_metric=True, key_metric_filename="model.pt"
        )
        self.saver.attach(self.engine)

    def report(self, score: float) -> None:
        torch.nn.init.constant_(self.weights.weight, score)
        self.engine.state.metrics = {"dice": score}
        self.saver.metrics_completed(self.engine)


def saved_score(directory: Path) -> float:
    return torch.load(directory / "model.pt", weights_only=True)["weight"].item()


def test_a_worse_model_after_resuming_does_not_replace_the_best(tmp_path: Path) -> None:
    before = Evaluation(tmp_path)
    before.report(0.75)
    state = BestModelState([None, before.saver]).state_dict()
    after = Evaluation(tmp_path)
    BestModelState([None, after.saver]).load_state_dict(state)
    after.report(0.5)
    assert saved_score(tmp_path) == pytest.approx(0.75)
    after.report(0.875)
    assert saved_score(tmp_path) == pytest.approx(0.875)


def test_without_a_saver_of_the_best_there_is_nothing_to_remember() -> None:
    assert BestModelState([None]).state_dict() == {}
