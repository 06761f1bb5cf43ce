"""The figure of the two perturbations: radius, effect on Dice, and a slice under each (as in the paper's first)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from scripts.picturing.perturbation_sweep import METHODS, Perturbed
from scripts.picturing.trained_network import Case

__all__ = ["save_perturbation_figure", "window"]

_COLORS = dict(zip(METHODS, ("tab:blue", "tab:red"), strict=True))
_SMALLEST_WINDOW, _MARGIN = 32, 1.5
_STRENGTH = "strength: eps of QPM, dropout rate"


def save_perturbation_figure(
    path: Path,
    strengths: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    case: Case | None = None,
    results: Sequence[Perturbed] = (),
    number: int = 0,
) -> None:
    """Draw the curves and, with a case, its predictions.

    Args:
        path: file to write, its ending the format.
        strengths: of the curves.
        curves: of :func:`~scripts.picturing.perturbation_sweep.radius_curves`.
        case: the volume, or None.
        results: of :func:`~scripts.picturing.perturbation_sweep.sweep`.
        number: the slice shown, along the last axis.
    """
    if case is None:
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        _draw_radius(figure.subplots(), strengths, curves)
        figure.savefig(path, dpi=100)
        return
    columns = len(results) // len(METHODS)
    width = max(9.0, 1.5 * columns)
    tile = width / columns
    figure = Figure(figsize=(width, 3.2 + len(METHODS) * (tile + 0.3)), layout="constrained")
    heights = [3.2, len(METHODS) * (tile + 0.3)]
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).ravel()
    left, right = above.subplots(1, 2)
    _draw_radius(left, strengths, curves)
    _draw_dice(right, results, case)
    _draw_predictions(below, case, results, number)
    figure.savefig(path, dpi=100)


def window(mask: np.ndarray) -> tuple[slice, slice]:
    """A square around the foreground of a slice, half as wide again as it; the whole slice without any.

    Args:
        mask: ``(H, W)``, bool.
    """
    if not mask.any():
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    places = np.argwhere(mask)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    side = max(_SMALLEST_WINDOW, round(_MARGIN * int((high - low).max())))
    cuts = []
    for start, stop, size in zip(low, high, mask.shape, strict=True):
        begin = int(np.clip((start + stop - side) // 2, 0, max(0, size - side)))
        cuts.append(slice(begin, min(begin + side, size)))
    return cuts[0], cuts[1]


def _draw_radius(panel: Any, strengths: Sequence[float], curves: Mapping[str, Sequence[float]]) -> None:
    styles = iter(("-", "--", ":"))
    for name, values in curves.items():
        method = next(method for method in METHODS if name.startswith(method))
        # strength 0 moves nothing, and zero has no place on a logarithmic axis
        points = [point for point in zip(strengths, values, strict=True) if point[1] > 0.0]
        style = "-" if name == method else next(styles)
        panel.plot(*zip(*points, strict=True), color=_COLORS[method], linestyle=style, label=name)
    panel.set_yscale("log")
    panel.set_xlim(0.0, 1.0)
    panel.set_xlabel(_STRENGTH, fontsize=9)
    panel.set_ylabel("KL radius, nats", fontsize=9)
    panel.set_title("distance of the perturbed distribution", fontsize=10)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=8)


def _draw_dice(panel: Any, results: Sequence[Perturbed], case: Case) -> None:
    for method in METHODS:
        chosen = [result for result in results if result.method == method]
        strengths = [result.strength for result in chosen]
        means = [float(np.mean(result.dice)) for result in chosen]
        ranges = [[mean - min(r.dice) for mean, r in zip(means, chosen, strict=True)]]
        ranges.append([max(r.dice) - mean for mean, r in zip(means, chosen, strict=True)])
        panel.errorbar(
            strengths, means, yerr=ranges, marker="o", markersize=4, capsize=3, color=_COLORS[method], label=method
        )
    lowest = min(min(result.dice) for result in results)
    panel.set_ylim(max(0.0, lowest - 0.1), 1.0)
    panel.set_xlim(-0.02, 1.0)
    panel.set_xlabel(_STRENGTH, fontsize=9)
    panel.set_ylabel("mean Dice of the volume", fontsize=9)
    against = "the label" if case.label is not None else "the unperturbed prediction"
    draws = max(len(result.dice) for result in results)
    panel.set_title(f"{case.name} against {against}, {draws} draw{'s' * (draws > 1)}", fontsize=10)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=8)


def _draw_predictions(figure: Any, case: Case, results: Sequence[Perturbed], number: int) -> None:
    columns = len(results) // len(METHODS)
    panels = figure.subplots(len(METHODS), columns, squeeze=False)
    label = case.label if case.label is not None else results[0].prediction
    cut = window((label[..., number] > 0).numpy())
    for panel, result in zip(panels.flatten(), results, strict=True):
        _draw_tile(panel, case, result.prediction[..., number], number, cut)
        panel.set_title(f"{result.strength:g}: Dice {np.mean(result.dice):.2f}", fontsize=9)
    for row, method in zip(panels, METHODS, strict=True):
        row[0].set_ylabel(method, fontsize=10)
    outline = "the label" if case.label is not None else "the unperturbed prediction"
    figure.suptitle(f"prediction under growing strength, slice {number}; white: {outline}", fontsize=10)
    _outline(panels.flatten(), label[..., number], cut)


def _draw_tile(panel: Any, case: Case, prediction: Tensor, number: int, cut: tuple[slice, slice]) -> None:
    panel.imshow(case.image[0, ..., number][cut].numpy().T, cmap="gray", origin="lower")
    classes = prediction[cut].numpy().T
    colored = colormaps["Set1"](np.maximum(classes - 1, 0) % 9)  # (W, H, 4)
    colored[..., 3] = 0.55 * (classes > 0)
    panel.imshow(colored, origin="lower", interpolation="nearest")
    panel.set_xticks([])
    panel.set_yticks([])


def _outline(panels: Sequence[Any], label: Tensor, cut: tuple[slice, slice]) -> None:
    classes = label[cut].numpy().T
    for panel in panels:
        for index in np.unique(classes[classes > 0]):
            panel.contour(classes == index, levels=[0.5], colors="white", linewidths=0.9)
