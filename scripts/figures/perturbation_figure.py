"""The figure of the two perturbations: radius, effect on Dice, and a slice under each (as in the paper's Figure 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from scripts.figures.perturbation_sweep import METHODS, Perturbed
from scripts.figures.trained_network import Case
from vqseg_bundle.handlers import class_colors

__all__ = ["describe", "save_perturbation_figure", "window"]

# none of the classes' colours
_COLORS = dict(zip(METHODS, ("#27313b", "#c2185b"), strict=True))
_MARKERS = dict(zip(METHODS, ("o", "s"), strict=True))
# a small square within a ring: equal results hide neither
_SIZES = dict(zip(METHODS, (8, 3.5), strict=True))
_SMALLEST_WINDOW, _MARGIN = 32, 1.5
_STRENGTH = "strength: eps of QPM, dropout rate"


def save_perturbation_figure(
    path: Path,
    strengths: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    case: Case | None = None,
    results: Sequence[Perturbed] = (),
    number: int = 0,
    classes: Sequence[str] = (),
) -> None:
    """Draw the curves and, with a case, its predictions.

    Args:
        path: file to write, in the format of its ending.
        strengths: strengths of the curves.
        curves: from :func:`~scripts.figures.perturbation_sweep.radius_curves`.
        case: the volume, or None.
        results: from :func:`~scripts.figures.perturbation_sweep.sweep`.
        number: the slice shown, along the last axis.
        classes: names of the foreground classes.
    """
    if case is None:
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        _draw_radius(figure.subplots(), strengths, curves)
        figure.supxlabel(describe(strengths, curves), fontsize=8, wrap=True)
        figure.savefig(path, dpi=100)
        return
    columns = len(results) // len(METHODS)
    width = max(9.0, 1.5 * columns)
    tile = width / columns
    figure = Figure(figsize=(width, 3.2 + len(METHODS) * (tile + 0.3) + 0.3), layout="constrained")
    heights = [3.2, len(METHODS) * (tile + 0.3) + 0.3]
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).ravel()
    left, right = above.subplots(1, 2)
    _draw_radius(left, strengths, curves)
    _draw_dice(right, results, case)
    _draw_predictions(below, case, results, number, classes, describe(strengths, curves, results))
    figure.savefig(path, dpi=100)


def describe(
    strengths: Sequence[float], curves: Mapping[str, Sequence[float]], results: Sequence[Perturbed] = ()
) -> str:
    """What the figure shows, in a sentence or two with its numbers; the arguments are those of the figure."""
    first, second = (next(values for name, values in curves.items() if name.startswith(m)) for m in METHODS)
    ratio = second[-1] / first[-1]
    times = f"{ratio:,.{0 if ratio >= 10 else 1}f} times"
    text = f"At strength {strengths[-1]:g}, {METHODS[1]} moves the distribution {times} as far as {METHODS[0]}."
    scores = []
    for method in METHODS:
        chosen = [result for result in results if result.method == method]
        if chosen:
            start, end = (float(np.mean(result.dice)) for result in (chosen[0], chosen[-1]))
            scores.append(f"{start:.3f} to {end:.3f} under {method}")
    if scores:
        text += f"\nUp to {results[-1].strength:g}, mean Dice goes from {', and from '.join(scores)}."
    return text


def window(mask: np.ndarray) -> tuple[slice, slice]:
    """A square around the foreground of a slice, 1.5 times as wide; the whole slice without foreground.

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
        # strength 0 moves nothing, and a logarithmic axis has no zero
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
            strengths,
            means,
            yerr=ranges,
            marker=_MARKERS[method],
            markersize=_SIZES[method],
            markerfacecolor="none" if method == METHODS[0] else None,
            capsize=3,
            color=_COLORS[method],
            label=method,
        )
    found = [dice for result in results for dice in result.dice]
    panel.set_ylim(max(0.0, min(found) - 0.05), min(1.02, max(found) + 0.05))
    panel.set_xlim(-0.02, 1.0)
    panel.set_xlabel(_STRENGTH, fontsize=9)
    panel.set_ylabel("mean Dice of the volume", fontsize=9)
    against = "the label" if case.label is not None else "the unperturbed prediction"
    draws = max(len(result.dice) for result in results)
    panel.set_title(f"{case.name} against {against}, {draws} draw{'s' * (draws > 1)}", fontsize=10)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=8)


def _draw_predictions(
    figure: Any, case: Case, results: Sequence[Perturbed], number: int, classes: Sequence[str], below: str
) -> None:
    panels = figure.subplots(len(METHODS), len(results) // len(METHODS), squeeze=False)
    label = case.label if case.label is not None else results[0].prediction
    outlined = _shown(case, label, number)
    cut = window(outlined > 0)
    colors = class_colors(max(len(classes), int(max(result.prediction.max() for result in results))))
    for panel, result in zip(panels.flatten(), results, strict=True):
        _draw_tile(panel, case, result.prediction, number, cut, colors)
        _outline(panel, outlined[cut])
        panel.set_title(f"{result.strength:g}: Dice {np.mean(result.dice):.2f}", fontsize=9)
    for row, method in zip(panels, METHODS, strict=True):
        row[0].set_ylabel(method, fontsize=10)
    _draw_sides(panels[0, 0], case.view.upright.sides)
    outline = "the label" if case.label is not None else "the unperturbed prediction"
    figure.suptitle(f"prediction under growing strength, slice {number}; white: {outline}", fontsize=10)
    names = [Patch(color=color, label=name) for name, color in zip(classes, colors, strict=False)]
    style = {"fontsize": 8, "title_fontsize": 9, "frameon": False}
    figure.legend(handles=names, loc="outside lower center", ncols=max(1, min(6, len(names))), title=below, **style)


def _shown(case: Case, volume: Tensor, number: int) -> np.ndarray:
    return case.view.show(volume[..., number].numpy())


def _draw_tile(
    panel: Any, case: Case, prediction: Tensor, number: int, cut: tuple[slice, slice], colors: Sequence[str]
) -> None:
    aspect = case.view.aspect
    panel.imshow(_shown(case, case.image[0], number)[cut], cmap="gray", aspect=aspect)
    classes = _shown(case, prediction, number)[cut]
    colored = np.array([(0.0, 0.0, 0.0, 0.0), *((*to_rgb(color), 0.55) for color in colors)])[classes]
    panel.imshow(colored, aspect=aspect, interpolation="nearest")
    panel.set_xticks([])
    panel.set_yticks([])


def _draw_sides(panel: Any, sides: tuple[str, str]) -> None:
    """The patient's sides at the left and upper edges."""
    style = {"color": "white", "fontsize": 8, "ha": "center", "va": "center", "transform": panel.transAxes}
    shade = {"facecolor": "black", "alpha": 0.5, "pad": 1.2, "linewidth": 0}
    for text, place in zip(sides, ((0.06, 0.5), (0.5, 0.94)), strict=True):
        if text:
            panel.text(*place, text, bbox=shade, **style)


def _outline(panel: Any, classes: np.ndarray) -> None:
    for index in np.unique(classes[classes > 0]):
        panel.contour(classes == index, levels=[0.5], colors="white", linewidths=0.9)
