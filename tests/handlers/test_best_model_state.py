"""A resumed training remembers the best score, so that a worse model does not replace the saved one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.handlers import CheckpointSaver

from vqseg_bundle.handlers import BestModelState

TRAINING = Path(__file__).parents[2] / "configs" / "train.json"


def saver_settings() -> dict[str, object]:
    """How the training's configuration has the weights of the best validation saved."""
    handlers = json.loads(TRAINING.read_text())["validate"]["handlers"]
    (saver,) = [handler for handler in handlers if handler.get("save_key_metric")]
    return {key: value for key, value in saver.items() if "key_metric" in key}


class Evaluation:
    """An evaluator that reports given scores, with the training's saver of the best."""

    def __init__(self, directory: Path) -> None:
        self.weights = torch.nn.Linear(1, 1)
        self.engine = Engine(lambda engine, batch: None)
        self.engine.state.key_metric_name = "dice"
        self.saver = CheckpointSaver(str(directory), {"model": self.weights}, **saver_settings())
        self.saver.attach(self.engine)

    def report(self, score: float, weight: float | None = None) -> None:
        torch.nn.init.constant_(self.weights.weight, score if weight is None else weight)
        self.engine.state.metrics = {"dice": score}
        self.saver.metrics_completed(self.engine)


def saved_weight(directory: Path) -> float:
    return torch.load(directory / "model.pt", weights_only=True)["weight"].item()


def test_a_worse_model_after_resuming_does_not_replace_the_best(tmp_path: Path) -> None:
    before = Evaluation(tmp_path)
    before.report(0.75)
    state = BestModelState([None, before.saver]).state_dict()
    after = Evaluation(tmp_path)
    BestModelState([None, after.saver]).load_state_dict(state)
    after.report(0.5)
    assert saved_weight(tmp_path) == pytest.approx(0.75)
    after.report(0.875)
    assert saved_weight(tmp_path) == pytest.approx(0.875)


def test_where_no_score_rises_above_zero_the_last_weights_are_kept(tmp_path: Path) -> None:
    before = Evaluation(tmp_path)
    for weight in (1.0, 2.0):
        before.report(0.0, weight)
        assert saved_weight(tmp_path) == weight
    after = Evaluation(tmp_path)
    BestModelState([after.saver]).load_state_dict(BestModelState([before.saver]).state_dict())
    after.report(0.0, 3.0)
    assert saved_weight(tmp_path) == 3.0
    after.report(0.25, 4.0)
    after.report(0.0, 5.0)
    assert saved_weight(tmp_path) == 4.0


def test_without_a_saver_of_the_best_there_is_nothing_to_remember() -> None:
    assert BestModelState([None]).state_dict() == {}
