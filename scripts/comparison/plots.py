"""Plots of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from scripts.comparison.plan import folder_name
from scripts.comparison.table import DatasetTable, Row

__all__ = ["save_plots", "sweep_lines"]

#: Ratio of largest to smallest value above which an axis is logarithmic.
_LOG_RATIO = 20.0


def save_plots(table: DatasetTable, reference: str | None, folder: Path, prefix: str = "") -> list[str]:
    """Save the plots for which a table has data, as PNG.

    - ``dice-<dataset>``: mean over seeds of each method, each seed as a point.
    - ``differences-<dataset>``: each case's difference against the reference, each case as a point.
    - ``sweep-<axis>-<dataset>``: Dice against the value, one line per sweep, with the standard deviation over seeds.

    Args:
        table: the numbers.
        reference: name of the method that the others are tested against, or None.
        folder: existing folder.
        prefix: put before each file's name.

    Returns:
        names of the files.
    """
    dataset = folder_name(table.name)
    saved = []
    rows = [row for row in table.rows if row.results]
    if rows:
        points = [[result.overall["dice"] for result in row.results.values()] for row in rows]
        path = folder / f"{prefix}dice-{dataset}.png"
        _save_points(rows, points, f"{table.name}: Dice, mean and seeds", path)
        saved.append(path.name)
    compared = [row for row in rows if row.differences]
    if compared:
        points = [list(row.differences.values()) for row in compared]
        path = folder / f"{prefix}differences-{dataset}.png"
        _save_points(compared, points, f"{table.name}: Dice of each case minus that of {reference}", path, zero=True)
        saved.append(path.name)
    for axis in dict.fromkeys(row.method.point.axis for row in rows if row.method.point):
        path = folder / f"{prefix}sweep-{folder_name(axis)}-{dataset}.png"
        _save_sweep(table, axis, path)
        saved.append(path.name)
    return saved


def sweep_lines(table: DatasetTable, axis: str) -> dict[str, list[tuple[float | str, float, float]]]:
    """For each sweep of an axis, the value, mean Dice and standard deviation (0 with one seed), in the plan's order."""
    lines: dict[str, list[tuple[float | str, float, float]]] = {}
    for row in table.rows:
        point = row.method.point
        if point is not None and point.axis == axis and row.results:
            dice = row.overall["dice"]
            deviation = dice.deviation if dice.size > 1 else 0.0
            lines.setdefault(point.sweep, []).append((point.value, dice.mean, deviation))
    return lines


def _save_points(
    rows: Sequence[Row], points: Sequence[Sequence[float]], title: str, path: Path, zero: bool = False
) -> None:
    """Plot each row's points side by side on their own line, with a bar at their mean."""
    figure = Figure(figsize=(7.0, 1.2 + 0.4 * len(rows)), layout="constrained")
    panel = figure.subplots()
    for position, values in enumerate(points):
        panel.plot(values, [position] * len(values), "o", color="tab:blue", alpha=0.5, markersize=4)
        panel.plot(sum(values) / len(values), position, "|", color="black", markersize=18, markeredgewidth=2)
    if zero:
        panel.axvline(0.0, color="grey", linewidth=0.8)
    panel.set_yticks(range(len(rows)), [row.method.name for row in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.grid(axis="x", alpha=0.3)
    panel.set_title(title, fontsize="medium")
    figure.savefig(path, dpi=110)


def _save_sweep(table: DatasetTable, axis: str, path: Path) -> None:
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    panel = figure.subplots()
    lines = sweep_lines(table, axis)
    for name, line in lines.items():
        values, means, deviations = zip(*line, strict=True)
        panel.errorbar(values, means, yerr=deviations, marker="o", capsize=3, label=name)
    numbers = [value for line in lines.values() for value, _, _ in line if not isinstance(value, str)]
    if numbers and min(numbers) > 0 and max(numbers) / min(numbers) > _LOG_RATIO:
        panel.set_xscale("log", base=2)
    panel.set_xlabel(axis)
    panel.set_ylabel("Dice")
    panel.set_title(table.name, fontsize="medium")
    panel.grid(alpha=0.3)
    panel.legend()
    figure.savefig(path, dpi=110)
