"""The progress of a running training: ``progress.csv`` and ``progress.png``, updated after each epoch."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from vqseg_bundle.common import write_text
from vqseg_bundle.handlers.progress_figure import save_progress

__all__ = ["ProgressPicture", "ProgressTable"]
logger = logging.getLogger(__name__)


class ProgressTable:
    """Rows of named numbers, one per epoch, in a CSV file that is replaced as a whole; cells without one are empty.

    The file is not touched before :meth:`read` or :meth:`write`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, float]] = []

    def read(self, last_iteration: int) -> None:
        """Take over an earlier run's rows up to an iteration; none without a file. ValueError: it is no such table."""
        if not self.path.is_file():
            return
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                found = [_numbers(row) for row in csv.DictReader(file)]
            self.rows = [row for row in found if row["iteration"] <= last_iteration]
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise ValueError(f"{self.path} is not a table with a number in each cell, a row an epoch.") from error

    def write(self) -> None:
        """Replace the file atomically, so that a reader never sees part of it."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in self.rows)
        write_text(self.path, text.getvalue())


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if value != ""}


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.8g}"


class ProgressPicture:
    """Write a row and redraw the picture after each epoch.

    A row has the epoch, the iteration, the mean of each loss term over the epoch, all metrics of the trainer, those of
    the epoch's validation if there was one, the learning rate, and the seconds that training and validation took. A
    resumed training continues the rows of ``progress.csv`` up to its first iteration. If files cannot be written (or
    read), there is one warning, and training continues.

    Place it after the handlers that validate and measure, and before the resume checkpoint: an extra row is dropped on
    resuming, but a missing one would leave a gap.

    Args:
        folder: folder of the two files.
        validator: the evaluator that validates, or None.
    """

    def __init__(self, folder: str | Path, validator: Engine | None = None) -> None:
        self.table = ProgressTable(Path(folder) / "progress.csv")
        self.picture = Path(folder) / "progress.png"
        self.validator = validator
        self._sums: dict[str, Tensor] = {}
        self._validation: dict[str, float] = {}
        self._started = self._warned = False

    def attach(self, engine: Engine) -> None:
        """Attach to a semi-supervised trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add_terms)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._end)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._note_validation)

    def _start_epoch(self, engine: Engine) -> None:
        if not self._started:
            self._started = True
            # a resumed engine has its iteration only now
            if engine.state.iteration > 0:
                self._careful(self.table.read, engine.state.iteration)
        self._sums, self._validation = {}, {}

    def _add_terms(self, engine: Engine) -> None:
        output: Any = engine.state.output
        # no .item(): on a GPU each would wait for the end of the step
        for name, value in output["terms"]._asdict().items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()

    def _note_validation(self, engine: Engine) -> None:
        self._validation = {name: float(value) for name, value in engine.state.metrics.items()}
        self._validation["validation_seconds"] = float(engine.state.times["COMPLETED"] or 0.0)

    def _end_epoch(self, engine: Engine) -> None:
        state: Any = engine.state
        steps = (state.iteration - 1) % state.epoch_length + 1
        row = {"epoch": float(state.epoch), "iteration": float(state.iteration)}
        row["learning_rate"] = float(engine.optimizer.param_groups[0]["lr"])  # type: ignore[attr-defined]
        row["seconds"] = float(state.times["EPOCH_COMPLETED"])
        row.update({f"loss_{name}": value.item() / steps for name, value in self._sums.items()})
        row.update({name: float(value) for name, value in state.metrics.items()})
        self.table.rows.append(row | self._validation)
        self._validation = {}
        self._save()

    def _end(self, engine: Engine) -> None:
        # a validation after the last epoch, if val_interval skipped that one
        if self.table.rows and self._validation:
            self.table.rows[-1].update(self._validation)
            self._save()

    def _save(self) -> None:
        self._careful(self.table.write)
        self._careful(save_progress, self.table.rows, self.picture)

    def _careful(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:  # whatever a disk or a drawing library raises, a picture is not worth a run
            if not self._warned:
                logger.warning("The training goes on without its picture in %s: %s", self.picture.parent, error)
            self._warned = True
