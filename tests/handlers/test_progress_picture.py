"""The table and the picture of a training's progress."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from support.bundle_runs import Trained
from torch import Tensor

from vqseg_bundle.engines import PseudoLabels
from vqseg_bundle.handlers import ProgressPicture, PseudoLabelConfidence
from vqseg_bundle.handlers.progress_picture import ProgressTable, best_epoch, draw_progress

ROWS: list[dict[str, float]] = [
    {"epoch": 1.0, "iteration": 4.0, "loss_total": 3.0, "loss_code_entropy": -1.5, "codebook_usage": 0.25},
    {"epoch": 2.0, "iteration": 8.0, "loss_total": 2.0, "loss_code_entropy": -2.5, "val_mean_dice": 0.5},
    {
        "epoch": 3.0,
        "iteration": 12.0,
        "loss_total": 1.0,
        "loss_code_entropy": -3.5,
        "val_mean_dice": 0.4,
        "code_reliance": 0.3,
    },
]


# ---- table -----------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_with_the_gaps_where_they_were(tmp_path: Path) -> None:
    table = ProgressTable(tmp_path / "new" / "progress.csv")
    table.rows = [dict(row) for row in ROWS]
    table.write()
    again = ProgressTable(table.path)
    again.read(last_iteration=12)
    assert again.rows == ROWS
    assert [path.name for path in table.path.parent.iterdir()] == ["progress.csv"]


def test_rows_of_steps_that_are_taken_again_are_dropped(tmp_path: Path) -> None:
    table = ProgressTable(tmp_path / "progress.csv")
    table.rows = [dict(row) for row in ROWS]
    table.write()
    table.read(last_iteration=8)
    assert [row["epoch"] for row in table.rows] == [1.0, 2.0]


@pytest.mark.parametrize("text", ["epoch,iteration\n1,four\n", "epoch,step\n1,4\n"])
def test_another_file_of_that_name_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "progress.csv").write_text(text)
    with pytest.raises(ValueError, match=r"progress\.csv is not a table with a number in each cell"):
        ProgressTable(tmp_path / "progress.csv").read(4)


# ---- figure ----------------------------------------------------------------------------------------------------------


def curves(figure: Figure) -> dict[str, list[list[float]]]:
    """All lines of a figure, by their labels."""
    lines = [line for panel in figure.axes for line in panel.get_lines() if len(line.get_xdata())]
    return {str(line.get_label()): [list(line.get_xdata()), list(line.get_ydata())] for line in lines}


def test_the_curves_are_the_numbers_of_the_table() -> None:
    drawn = curves(draw_progress(ROWS))
    assert drawn["total"] == [[1, 2, 3], [3.0, 2.0, 1.0]]
    assert drawn["code entropy"] == [[1, 2, 3], [-1.5, -2.5, -3.5]]
    assert drawn["validation (teacher, volumes)"] == [[2, 3], [0.5, 0.4]]
    assert drawn["codes in use, share"] == [[1], [0.25]]
    assert drawn["with another image's codes"] == [[3], [0.3]]
    assert drawn["best 0.500, epoch 2"] == [[2], [0.5]]


def test_only_positive_terms_are_on_the_logarithmic_axis() -> None:
    scales = {str(line.get_label()): panel.get_yscale() for panel in draw_progress(ROWS).axes for line in panel.lines}
    assert (scales["total"], scales["code entropy"]) == ("log", "linear")


def test_what_no_row_tells_has_no_panel() -> None:
    titles = {panel.get_title() for panel in draw_progress(ROWS).axes}
    told = {"mean Dice of the foreground", "codebook", "share of the prediction that changes"}
    assert titles == {"loss, mean of the epoch", *told, ""}
    assert best_epoch(ROWS[:1]) is None


def test_of_equal_validations_the_last_is_the_best_as_its_weights_are_kept() -> None:
    rows = [{"epoch": float(epoch), "val_mean_dice": score} for epoch, score in enumerate((0.5, 0.75, 0.75, 0.25))]
    assert best_epoch(rows) == rows[2]


# ---- handlers --------------------------------------------------------------------------------------------------------


class Terms(NamedTuple):
    """A loss of two terms."""

    total: Tensor
    segmentation: Tensor


def trainer(picture: ProgressPicture, validate_after: tuple[int, ...] = (), validator: Engine | None = None) -> Any:
    """An engine whose loss is the number of the iteration; the validator runs after the given epochs."""

    def step(engine: Engine, batch: int) -> dict[str, Any]:
        value = torch.tensor(float(engine.state.iteration))
        return {"terms": Terms(value, 2 * value)}

    engine: Any = Engine(step)
    engine.optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.25)
    if validator is not None:
        for epoch in validate_after:
            engine.add_event_handler(Events.EPOCH_COMPLETED(once=epoch), lambda: validator.run([0]))
    picture.attach(engine)
    return engine


def evaluator(score: float) -> Engine:
    engine = Engine(lambda engine, batch: None)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: engine.state.metrics.update(val_mean_dice=score))
    return engine


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_holds_the_means_of_its_epoch_and_its_own_validation(tmp_path: Path) -> None:
    validator = evaluator(0.75)
    engine = trainer(ProgressPicture(tmp_path, validator), (2,), validator)
    engine.run(range(3), max_epochs=3)
    rows = table_of(tmp_path)
    assert [row["iteration"] for row in rows] == ["3", "6", "9"]
    assert [row["loss_total"] for row in rows] == ["2", "5", "8"]
    assert [row["loss_segmentation"] for row in rows] == ["4", "10", "16"]
    assert [row["val_mean_dice"] for row in rows] == ["", "0.75", ""]
    assert {row["learning_rate"] for row in rows} == {"0.25"}
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["progress.csv", "progress.png"]


def test_a_short_last_epoch_is_averaged_over_its_own_steps(tmp_path: Path) -> None:
    engine = trainer(ProgressPicture(tmp_path))
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=5), lambda: engine.terminate_epoch())
    engine.run(range(3), max_epochs=2)
    assert [row["loss_total"] for row in table_of(tmp_path)] == ["2", "4.5"]


def test_a_validation_after_the_last_step_belongs_to_the_last_row(tmp_path: Path) -> None:
    validator = evaluator(0.5)
    engine: Any = Engine(lambda engine, batch: {"terms": Terms(torch.ones(()), torch.ones(()))})
    engine.optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.25)
    engine.add_event_handler(Events.COMPLETED, lambda: validator.run([0]))
    ProgressPicture(tmp_path, validator).attach(engine)
    engine.run(range(2), max_epochs=2)
    assert [row["val_mean_dice"] for row in table_of(tmp_path)] == ["", "0.5"]


def test_a_resumed_training_goes_on_with_the_earlier_curve(tmp_path: Path) -> None:
    trainer(ProgressPicture(tmp_path)).run(range(3), max_epochs=3)
    resumed = trainer(ProgressPicture(tmp_path))
    state = {"iteration": 6, "epoch_length": 3, "max_epochs": 4}
    resumed.load_state_dict(state)
    resumed.run(range(3))
    rows = table_of(tmp_path)
    assert [row["iteration"] for row in rows] == ["3", "6", "9", "12"]
    assert [row["loss_total"] for row in rows] == ["2", "5", "8", "11"]


def test_a_row_of_an_epoch_resumed_within_holds_the_mean_of_the_steps_since(tmp_path: Path) -> None:
    resumed = trainer(ProgressPicture(tmp_path))
    resumed.load_state_dict({"iteration": 4, "epoch_length": 3, "max_epochs": 2})
    resumed.run(range(3))
    assert [row["loss_total"] for row in table_of(tmp_path)] == ["5.5"]


def test_a_new_training_starts_a_new_curve(tmp_path: Path) -> None:
    for _ in range(2):
        trainer(ProgressPicture(tmp_path)).run(range(3), max_epochs=2)
    assert [row["epoch"] for row in table_of(tmp_path)] == ["1", "2"]


def test_a_picture_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    engine = trainer(ProgressPicture(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        engine.run(range(2), max_epochs=3)
    assert engine.state.iteration == 6
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"The training goes on without its picture in {tmp_path / 'file'}: ")


def test_the_confidence_of_pseudo_labels_by_hand() -> None:
    """Confidences 0.9, 0.6 then 0.7, 0.8: means 0.75 and 0.75; shares of at least 0.7: a half and 1."""
    winners = [torch.tensor([[[[0.9, 0.6]]]]), torch.tensor([[[[0.7, 0.8]]]])]

    def step(engine: Engine, winner: Tensor) -> dict[str, Any]:
        return {"pseudo_labels": PseudoLabels(torch.cat((winner, 1 - winner), dim=1), torch.empty(0))}

    engine = Engine(step)
    PseudoLabelConfidence(threshold=0.7).attach(engine)
    metrics = engine.run(winners).metrics
    assert metrics["pseudo_label_confidence"] == pytest.approx(0.75)
    assert metrics["pseudo_label_share"] == pytest.approx(0.75)


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=rf"threshold must lie in \[0, 1\], got {threshold}"):
        PseudoLabelConfidence(threshold)


def test_a_training_by_command_leaves_its_progress(trained: Trained) -> None:
    rows = table_of(trained.output_dir)
    assert [(row["epoch"], row["iteration"]) for row in rows] == [("1", "4"), ("2", "6")]
    for row in rows:
        assert float(row["loss_total"]) > 0
        assert all(0 <= float(row[name]) <= 1 for name in ("val_mean_dice", "train_mean_dice", "codebook_usage"))
        assert 0 <= float(row["pseudo_label_share"]) <= 1
        assert 1 / 3 <= float(row["pseudo_label_confidence"]) <= 1, "of three classes"
    assert (trained.output_dir / "progress.png").is_file()
