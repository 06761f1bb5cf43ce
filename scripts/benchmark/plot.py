"""Time and memory over the number of tokens and codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scripts.benchmark.comparison import MEASURED

__all__ = ["curves", "save_scaling_plot"]

_QUANTITIES = {"minimum": ("time, s", 1.0), "extra_bytes": ("extra memory, MB", 1e-6)}


def curves(record: Mapping[str, Any], axis: str, quantity: str) -> dict[str, list[tuple[int, float]]]:
    """Points of each contender along one axis, where the other size is the one that most comparisons share.

    Args:
        record: of the case "scaling".
        axis: "N" or "K".
        quantity: "minimum" or "extra_bytes".

    Returns:
        by contender, ``(size, value)`` in ascending order of size.
    """
    other = "K" if axis == "N" else "N"
    settings = [comparison["setting"] for comparison in record["comparisons"]]
    sizes = [setting[other] for setting in settings]
    common = max(sizes, key=sizes.count)
    points: dict[str, list[tuple[int, float]]] = {}
    for comparison in record["comparisons"]:
        if comparison["setting"][other] == common:
            for result in comparison["results"]:
                if result["status"] == MEASURED:
                    points.setdefault(result["contender"], []).append(
                        (comparison["setting"][axis], float(result[quantity]))
                    )
    return {name: sorted(values) for name, values in points.items()}


def save_scaling_plot(record: Mapping[str, Any], path: Path) -> None:
    """Four panels: time, logarithmic, with dashed lines of proportional growth; memory, from zero.

    Args:
        record: of the case "scaling".
        path: PNG file.
    """
    figure = Figure(figsize=(8.0, 6.0), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    for row, (quantity, (label, scale)) in enumerate(_QUANTITIES.items()):
        for column, axis in enumerate(("N", "K")):
            panel = panels[row][column]
            for name, points in curves(record, axis, quantity).items():
                sizes, values = zip(*points, strict=True)
                panel.plot(sizes, [value * scale for value in values], marker="o", label=name)
                if quantity == "minimum":
                    proportional = [values[-1] * size / sizes[-1] for size in sizes]
                    panel.plot(sizes, proportional, "k--", linewidth=0.6)
            panel.set_xscale("log", base=2)
            if quantity == "minimum":
                panel.set_yscale("log")
            panel.grid(alpha=0.3)
            if column == 0:
                panel.set_ylabel(label)
            if row == 1:
                panel.set_xlabel({"N": "tokens N", "K": "codes K"}[axis])
    # after both: a limit set on one panel freezes the scale that the other shares
    panels[1][0].set_ylim(bottom=0.0)
    panels[0][0].legend()
    figure.savefig(path, dpi=90)
