"""A training that can be looked at while it runs: ``progress.csv`` and ``progress.png``, renewed after each epoch."""

from __future__ import annotations

import csv
import io
import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from vqseg_bundle.common import replacing, write_text

if TYPE_CHECKING:  # matplotlib takes as long to import as a small volume to segment
    from matplotlib.figure import Figure

__all__ = ["ProgressPicture", "ProgressTable", "best_epoch", "draw_progress", "save_progress"]

Rows = Sequence[Mapping[str, float]]
_LOSS = "loss_"
_COLUMNS = 2
_PANEL_INCHES = (4.6, 2.7)
_DOTS_PER_INCH = 90
#: Up to this many epochs, each is marked by a point, since a line through one point is invisible.
_MARKED_EPOCHS = 30
logger = logging.getLogger(__name__)


def save_progress(rows: Rows, path: str | Path) -> None:
    """Draw the rows of a :class:`ProgressTable`, at least one, into a PNG file that is replaced in one step."""
    with replacing(path) as partial:
        draw_progress(rows).savefig(partial, dpi=_DOTS_PER_INCH, format="png")


def draw_progress(rows: Rows) -> Figure:
    """A figure with the losses on top, and a small panel for everything else that any row knows."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    known = {name for row in rows for name in row}
    small = [draw for draw, wanted in _PANELS if any(name.startswith(wanted) for name in known)]
    lines = 1 + math.ceil(len(small) / _COLUMNS)
    width, height = _PANEL_INCHES
    tall = lines * height
    figure = Figure(figsize=(_COLUMNS * width, tall))
    # by hand: an automatic layout would draw everything twice in each epoch
    grid = figure.add_gridspec(lines, _COLUMNS, wspace=0.42, hspace=0.42)
    grid.update(left=0.085, right=0.93, bottom=0.5 / tall, top=1.0 - 0.6 / tall)
    panels = [figure.add_subplot(grid[1 + index // _COLUMNS, index % _COLUMNS]) for index in range(len(small))]
    for panel, draw in zip([figure.add_subplot(grid[0, :]), *panels], [_draw_losses, *small], strict=True):
        draw(panel, rows)
        panel.set_xlabel("epoch", fontsize="small")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.set_xlim(rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5)
        panel.grid(alpha=0.25)
    last = rows[-1]
    title = f"epoch {last['epoch']:.0f}, iteration {last['iteration']:,.0f}"
    figure.suptitle(title, y=1.0 - 0.1 / tall, va="top", fontsize="medium")
    return figure


def best_epoch(rows: Rows) -> Mapping[str, float] | None:
    """The row with the highest validation Dice, the last of equals (its weights are kept); None without validation."""
    validated = [row for row in rows if "val_mean_dice" in row]
    return max(reversed(validated), key=lambda row: row["val_mean_dice"], default=None)


def _draw_losses(panel: Any, rows: Rows) -> None:
    """Plot positive terms on a logarithmic axis; others, such as the negative entropy, on a second, linear axis."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    names = dict.fromkeys(name for row in rows for name in row if name.startswith(_LOSS))
    values = {name: [row[name] for row in rows if name in row] for name in names}
    panel.set_title("loss, mean of the epoch", fontsize="medium")
    positive = [name for name in names if min(values[name]) > 0.0]
    # a term that is switched off is zero throughout
    signed = [name for name in names if name not in positive and any(value != 0.0 for value in values[name])]
    for name in positive:
        style = {"color": "black", "linewidth": 1.8} if name == "loss_total" else {}
        _line(panel, rows, name, _term(name), **style)
    if positive:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    if signed:
        beside = panel.twinx()
        for name, color in zip(signed, itertools.cycle(("tab:pink", "tab:olive", "tab:brown")), strict=False):
            _line(beside, rows, name, _term(name), linestyle="--", color=color)
            panel.plot([], [], linestyle="--", color=color, label=f"{_term(name)} (right)")
    left, bottom, width, height = panel.get_position().bounds
    panel.set_position((left, bottom, 0.78 * width, height))
    if positive or signed:
        panel.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.09, 0.5), frameon=False)


def _draw_dice(panel: Any, rows: Rows) -> None:
    _line(panel, rows, "train_mean_dice", "training (student, patches)", color="tab:grey")
    _line(panel, rows, "val_mean_dice", "validation (teacher, volumes)", color="tab:blue")
    best = best_epoch(rows)
    if best is not None:
        score = best["val_mean_dice"]
        label = f"best {score:.3f}, epoch {best['epoch']:.0f}"
        panel.plot(best["epoch"], score, "*", color="tab:red", markersize=12, label=label, zorder=3)
    panel.set_ylim(0.0, 1.0)
    panel.set_title("mean Dice of the foreground", fontsize="medium")
    panel.legend(fontsize="x-small", framealpha=0.6)


def _draw_pseudo_labels(panel: Any, rows: Rows) -> None:
    _line(panel, rows, "pseudo_label_confidence", "mean confidence", color="tab:purple")
    _line(panel, rows, "pseudo_label_share", "share above the threshold", color="tab:orange")
    panel.set_ylim(0.0, 1.02)
    panel.set_title("pseudo-labels", fontsize="medium")
    panel.legend(fontsize="x-small", framealpha=0.6)


def _draw_codebook(panel: Any, rows: Rows) -> None:
    _line(panel, rows, "codebook_usage", "codes in use, share", color="tab:green")
    panel.set_ylim(0.0, 1.02)
    panel.set_ylabel("share of the codes in use", color="tab:green", fontsize="small")
    beside = panel.twinx()
    _line(beside, rows, "codebook_perplexity", "perplexity", color="tab:brown")
    beside.set_ylim(bottom=0.0)
    beside.set_ylabel("perplexity", color="tab:brown", fontsize="small")
    panel.set_title("codebook", fontsize="medium")


def _draw_reliance(panel: Any, rows: Rows) -> None:
    _line(panel, rows, "code_reliance", "with another image's codes", color="tab:green")
    _line(panel, rows, "skip_reliance", "without skip connections", color="tab:grey")
    panel.set_ylim(0.0, 1.02)
    panel.set_title("share of the prediction that changes", fontsize="medium")
    panel.legend(fontsize="x-small", framealpha=0.6)


def _draw_time(panel: Any, rows: Rows) -> None:
    _line(panel, rows, "seconds", "training", color="tab:grey")
    _line(panel, rows, "validation_seconds", "validation", color="tab:blue")
    panel.set_ylim(bottom=0.0)
    panel.set_ylabel("seconds an epoch", fontsize="small")
    beside = panel.twinx()
    _line(beside, rows, "learning_rate", "learning rate", color="tab:cyan")
    beside.set_ylim(bottom=0.0)
    beside.set_ylabel("learning rate", color="tab:cyan", fontsize="small")
    beside.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    panel.set_title("time and learning rate", fontsize="medium")
    panel.legend(fontsize="x-small", loc="lower left", framealpha=0.6)


#: small panels, and the prefixes of their names in the rows
_PANELS: tuple[tuple[Callable[[Any, Rows], None], tuple[str, ...]], ...] = (
    (_draw_dice, ("train_mean_dice", "val_mean_dice")),
    (_draw_pseudo_labels, ("pseudo_label_",)),
    (_draw_codebook, ("codebook_",)),
    (_draw_reliance, ("code_reliance", "skip_reliance")),
    (_draw_time, ("seconds", "learning_rate")),
)


def _term(name: str) -> str:
    return name.removeprefix(_LOSS).replace("_", " ")


def _line(panel: Any, rows: Rows, name: str, label: str, **style: Any) -> None:
    points = [(row["epoch"], row[name]) for row in rows if name in row]
    if points:
        marker = "o" if len(points) <= _MARKED_EPOCHS else None
        panel.plot(*zip(*points, strict=True), marker=marker, markersize=3, label=label, **style)


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
        self._steps = 0  # of these; a resumed epoch has fewer than its length
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
        self._sums, self._steps, self._validation = {}, 0, {}

    def _add_terms(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self._steps += 1
        # no .item(): on a GPU each would wait for the end of the step
        for name, value in output["terms"]._asdict().items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()

    def _note_validation(self, engine: Engine) -> None:
        self._validation = {name: float(value) for name, value in engine.state.metrics.items()}
        self._validation["validation_seconds"] = float(engine.state.times["COMPLETED"] or 0.0)

    def _end_epoch(self, engine: Engine) -> None:
        state: Any = engine.state
        row = {"epoch": float(state.epoch), "iteration": float(state.iteration)}
        row["learning_rate"] = float(engine.optimizer.param_groups[0]["lr"])  # type: ignore[attr-defined]
        row["seconds"] = float(state.times["EPOCH_COMPLETED"])
        row.update({f"loss_{name}": value.item() / self._steps for name, value in self._sums.items()})
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
