"""A resumed training remembers the best score, so that a worse model does not replace the saved one."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.handlers import CheckpointSaver
from support.bundle_runs import ROOT

from vqseg_bundle.common import NonFiniteError
from vqseg_bundle.handlers import BestModelState, ModelSaver, read_checkpoint, write_checkpoint

BAD = {"layer.weight": torch.tensor([1.0, math.nan]), "layer.bias": torch.tensor([math.inf]), "ok": torch.zeros(2)}


# writes without end, slowly enough that a kill mostly falls amid a file
WRITER = """
import sys, torch
from pathlib import Path
from vqseg_bundle.handlers import write_checkpoint
for number in range(10**6):
    write_checkpoint(Path(sys.argv[1]), {"number": torch.full((2**22,), float(number))}, keep_former=True)
    if number == 1:
        print("written", flush=True)
"""


def test_what_is_written_can_be_read(tmp_path):
    path = tmp_path / "new" / "model.pt"
    write_checkpoint(path, {"weight": torch.arange(3.0), "epoch": 2})
    content = read_checkpoint(path)
    assert content["weight"].tolist() == [0.0, 1.0, 2.0]
    assert content["epoch"] == 2
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    path = tmp_path / "model.pt"
    write_checkpoint(path, {"weight": torch.ones(1)})
    message = (
        r"model\.pt is not written: layer\.weight holds numbers that are not finite, and 1 more do\. What was saved"
    )
    with pytest.raises(NonFiniteError, match=message):
        write_checkpoint(path, BAD, keep_former=True)
    assert read_checkpoint(path) == {"weight": torch.ones(1)}
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_the_file_before_is_kept_where_that_is_asked_for(tmp_path):
    path = tmp_path / "resume.pt"
    for number in range(4):
        write_checkpoint(path, {"number": number}, keep_former=number == 2)
    assert read_checkpoint(path) == {"number": 3}
    assert read_checkpoint(tmp_path / "resume.previous.pt") == {"number": 1}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, r"model\.pt: there is no such file"),
        (lambda path: path.write_bytes(b""), r"model\.pt: expected weights, found an empty file"),
        (_cut, r"model\.pt: expected weights, found a file that is cut off or damaged"),
        (
            lambda path: path.write_bytes(b"<html>404</html>" * 50),
            r"model\.pt: expected weights, found a file of another",
        ),
        (
            lambda path: torch.save(BAD, path),
            r"model\.pt: expected finite weights, found NaN or infinity in layer\.weight and 1 more",
        ),
    ],
    ids=["missing", "empty", "cut off", "no weights", "not finite"],
)
def test_what_cannot_be_used_is_named(tmp_path, spoil, message):
    path = tmp_path / "model.pt"
    write_checkpoint(path, {"weight": torch.zeros(1000)})
    spoil(path)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_a_process_that_is_killed_leaves_whole_files(tmp_path):
    path = tmp_path / "model.pt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    newest = read_checkpoint(path)["number"][0].item()
    # the same, if the kill fell between the two names
    assert read_checkpoint(tmp_path / "model.previous.pt")["number"][0].item() in (newest - 1, newest)


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


TRAINING = Path(__file__).parents[2] / "configs" / "train.json"


def saver_settings() -> dict[str, object]:
    """How the training's configuration has the weights of the best validation saved."""
    handlers = json.loads(TRAINING.read_text())["validation_handlers"].values()
    (saver,) = [handler for handler in handlers if handler.get("save_key_metric")]
    return {key: value for key, value in saver.items() if "key_metric" in key}


class BestEvaluation:
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
    before = BestEvaluation(tmp_path)
    before.report(0.75)
    state = BestModelState([None, before.saver]).state_dict()
    after = BestEvaluation(tmp_path)
    BestModelState([None, after.saver]).load_state_dict(state)
    after.report(0.5)
    assert saved_weight(tmp_path) == pytest.approx(0.75)
    after.report(0.875)
    assert saved_weight(tmp_path) == pytest.approx(0.875)


def test_the_best_score_and_its_epoch_outlive_an_interruption(tmp_path: Path) -> None:
    before, after = BestEvaluation(tmp_path), BestEvaluation(tmp_path)
    before.report(0.75)
    before.engine.state.best_metric, before.engine.state.best_metric_epoch = 0.75, 3
    after.engine.state.best_metric, after.engine.state.best_metric_epoch = -1, -1
    state = BestModelState([before.saver], before.engine).state_dict()
    BestModelState([after.saver], after.engine).load_state_dict({"0": state["0"]})  # of version 0.11.0
    assert after.engine.state.best_metric == -1
    BestModelState([after.saver], after.engine).load_state_dict(state)
    assert (after.engine.state.best_metric, after.engine.state.best_metric_epoch) == (0.75, 3)


def test_where_no_score_rises_above_zero_the_last_weights_are_kept(tmp_path: Path) -> None:
    before = BestEvaluation(tmp_path)
    for weight in (1.0, 2.0):
        before.report(0.0, weight)
        assert saved_weight(tmp_path) == weight
    after = BestEvaluation(tmp_path)
    BestModelState([after.saver]).load_state_dict(BestModelState([before.saver]).state_dict())
    after.report(0.0, 3.0)
    assert saved_weight(tmp_path) == 3.0
    after.report(0.25, 4.0)
    after.report(0.0, 5.0)
    assert saved_weight(tmp_path) == 4.0


def test_without_a_saver_of_the_best_there_is_nothing_to_remember() -> None:
    assert BestModelState([None]).state_dict() == {}


def test_a_flipped_byte_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path, weights = tmp_path / "model.pt", torch.arange(300, dtype=torch.float32)
    write_checkpoint(path, {"weights": weights})
    whole, draw, noticed = path.read_bytes(), np.random.default_rng(0), 0
    for place in draw.integers(len(whole), size=300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << draw.integers(8))]) + whole[place + 1 :])
        try:
            found = read_checkpoint(path)
        except ValueError:
            noticed += 1
        else:
            assert torch.equal(found["weights"], weights)
    assert noticed > 100


class _Hostile:
    """Pickle calls what this says when it loads it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_file_of_weights_is_refused_and_not_run(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    save({"weight": torch.zeros(2), "engine": _Hostile(tmp_path / "trace")}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt: expected weights, found a file of another kind"):
        read_checkpoint(tmp_path / "model.pt")
    assert not (tmp_path / "trace").exists()
