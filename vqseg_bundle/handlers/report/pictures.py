"""Pictures of the report as inline SVG: a case's slice with its contours, and the distribution of a metric."""

from __future__ import annotations

import base64
import colorsys
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image

from vqseg_bundle.handlers.report.case_slice import CaseSlice
from vqseg_bundle.handlers.report.volumes import compare_volumes

if TYPE_CHECKING:  # matplotlib takes as long to import as a small volume to segment
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Dot",
    "Place",
    "class_colors",
    "draw_agreement",
    "draw_case",
    "draw_distribution",
    "draw_map",
    "draw_reliability",
]

_COLORS = ("#e4572e", "#2f8fd0", "#f2a900", "#2fae74", "#9467d6", "#e26aa8", "#12a5a5", "#a8622d", "#8fa31e", "#6b7a8f")
_WIDTH_INCHES = 4.6
_TITLE_INCHES = 0.22
#: largest height over width of a picture; very long slices would leave no room for the others
_TALLEST = 1.6
_MOST_ACROSS = 3
_PNG = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
_INK, _FAINT, _BAR = "#27313b", "#d5dbe1", "#2f8fd0"


class Dot(NamedTuple):
    """A case's value in a distribution, whether both prediction and label have the class, and the target of a click."""

    value: float
    scored: bool
    anchor: str


class Place(NamedTuple):
    """A patient on the map of a cohort, its cluster's colour, its role and the target of a click.

    ``role`` is "chosen", "labelled" or empty.
    """

    name: str
    x: float
    y: float
    color: str
    role: str
    anchor: str


def class_colors(count: int) -> list[str]:
    """Distinct colours, visible on white and on grey images.

    Args:
        count: number of foreground classes.
    """
    more = [_turned_hue(index) for index in range(max(0, count - len(_COLORS)))]
    return [*_COLORS, *more][:count]


def draw_case(shown: CaseSlice, colors: Sequence[str]) -> Markup:
    """Image, ground truth, prediction and, if present, reconstruction side by side.

    The ground truth is a contour in the class's colour; the prediction is filled, with the ground truth's contour in
    white.
    """
    titles = ["Image", "Ground truth", "Prediction"] + (["Reconstruction"] if shown.reconstruction is not None else [])
    across, down = (3, 1) if len(titles) == 3 else (2, 2)
    rows, columns = shown.image.shape
    ratio = min(_TALLEST, rows * shown.row_to_column / columns)
    width, height = _WIDTH_INCHES, down * (_WIDTH_INCHES / across * ratio + _TITLE_INCHES)
    figure = _figure(width, height)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    gap = down * _TITLE_INCHES / (height - down * _TITLE_INCHES)
    figure.subplots_adjust(0, 0, 1, 1 - _TITLE_INCHES / height, wspace=0.03, hspace=gap)
    for panel, title in zip(panels, titles, strict=True):
        picture = shown.reconstruction if title == "Reconstruction" else shown.image
        panel.imshow(picture, cmap="gray", vmin=0, vmax=255, aspect=shown.row_to_column, interpolation="none")
        panel.set_title(title, fontsize=9, color=_INK, pad=3)
        panel.set_axis_off()
    _outline(panels[1], shown.label, colors, linewidths=1.3)
    _fill(panels[2], shown.pred, colors)
    _outline(panels[2], shown.label, ["white"] * len(colors), linewidths=1.0)
    shade = {"facecolor": "black", "alpha": 0.5, "pad": 1.2, "linewidth": 0}
    for text, place in zip(shown.sides, ((0.06, 0.5), (0.5, 0.93)), strict=True):
        if text:
            style = {"transform": panels[0].transAxes, "color": "white", "bbox": shade, "fontsize": 8.5}
            panels[0].text(*place, text, ha="center", va="center", **style)
    return _to_svg(figure)


def draw_distribution(
    values: Mapping[str, Sequence[Dot]], colors: Sequence[str], metric: str, limits: tuple[float, float | None]
) -> Markup:
    """One row per class: a box (quartiles, median, whiskers of 1.5 interquartile ranges) and every case as a dot.

    A cross is a case in which the structure was missed or hallucinated; ``limits`` None as upper limit means that of
    the data.
    """
    count = len(values)
    height = 0.42 * count + 0.62
    figure = _figure(5.6, height)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.22, right=0.97, top=1 - 0.08 / height, bottom=0.5 / height)
    rng = np.random.default_rng(0)
    for row, (dots, color) in enumerate(zip(values.values(), colors, strict=True)):
        numbers = [dot.value for dot in dots]
        if numbers:
            _draw_box(axes, numbers, row, color)
        for scored, marker in ((True, "o"), (False, "x")):
            chosen = [dot for dot in dots if dot.scored is scored]
            if chosen:
                heights = row + rng.uniform(-0.16, 0.16, len(chosen))
                style: dict[str, Any] = {"facecolors": color, "edgecolors": "white"} if scored else {"c": color}
                places = [dot.value for dot in chosen]
                points = axes.scatter(places, heights, s=13, marker=marker, zorder=3, alpha=0.8, **style)
                points.set(linewidths=0.5 if scored else 1.2, urls=[dot.anchor for dot in chosen], clip_on=False)
    axes.set_yticks(range(count), [_shortened(name) for name in values], fontsize=8, color=_INK, parse_math=False)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xlim(*limits)
    axes.set_xlabel(metric, fontsize=8, color=_INK)
    axes.tick_params(axis="x", labelsize=7.5, color=_FAINT, labelcolor=_INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.patch.set_alpha(0)
    return _to_svg(figure)


def draw_agreement(
    pairs: Mapping[str, Mapping[str, tuple[float, float]]], colors: Sequence[str], anchors: Mapping[str, str], unit: str
) -> Markup:
    """Bland and Altman's plots: of each case the difference of prediction and label over their mean, a panel per class.

    Args:
        pairs: class name to case name to labelled and predicted volume.
        colors: of the classes.
        anchors: case name to the target of a click.
        unit: of the volumes.
    """
    across = min(_MOST_ACROSS, len(pairs))
    down = math.ceil(len(pairs) / across)
    figure = _figure(2.9 * across + 0.2, 2.3 * down)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    figure.subplots_adjust(0.62 / (2.9 * across), 0.45 / (2.3 * down), 0.99, 1 - 0.25 / (2.3 * down), 0.3, 0.45)
    for panel, (name, cases), color in zip(panels, pairs.items(), colors, strict=False):
        values = np.array(list(cases.values())).reshape(-1, 2)
        points = panel.scatter(values.mean(axis=1), values[:, 1] - values[:, 0], s=13, c=color, alpha=0.8, zorder=3)
        points.set(linewidths=0.5, edgecolors="white", urls=[f"#{anchors[case]}" for case in cases])
        panel.axhline(0.0, color=_FAINT, linewidth=1.0)
        for value, style in zip(compare_volumes(*values.T[::-1].tolist()), ("-", "--", "--"), strict=True):
            if not math.isnan(value):
                panel.axhline(value, color=_INK, linewidth=0.9, linestyle=style)
        panel.set_title(_shortened(name), fontsize=8.5, color=_INK, parse_math=False)
        panel.set_xlabel(f"mean of label and prediction ({unit})", fontsize=7.5, color=_INK)
        panel.set_ylabel(f"prediction - label ({unit})", fontsize=7.5, color=_INK)
        panel.tick_params(labelsize=7, color=_FAINT, labelcolor=_INK)
        panel.spines[["top", "right"]].set_visible(False)
        panel.patch.set_alpha(0)
    for panel in panels[len(pairs) :]:
        panel.set_axis_off()
    return _to_svg(figure)


def draw_reliability(bins: np.ndarray) -> Markup:
    """Reliability diagram: a bar for the accuracy in each bin of confidence, darker the more voxels the bin has.

    Args:
        bins: number of voxels, sum of confidences and number of correct voxels of each bin, ``(M, 3)``.
    """
    figure = _figure(3.6, 3.2)
    axes = figure.subplots()
    figure.subplots_adjust(0.14, 0.14, 0.97, 0.97)
    full = bins[bins[:, 0] > 0]
    shares = full[:, 0] / full[:, 0].sum()
    left = np.flatnonzero(bins[:, 0] > 0) / len(bins)
    for start, accuracy, share in zip(left, full[:, 2] / full[:, 0], shares, strict=True):
        shade: dict[str, Any] = {
            "facecolor": _BAR,
            "alpha": 0.15 + 0.85 * math.sqrt(share),
            "edgecolor": "white",
            "linewidth": 0.8,
        }
        axes.bar(start, accuracy, 1 / len(bins), align="edge", zorder=2, **shade)
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.9, linestyle="--", zorder=3)
    axes.scatter(full[:, 1] / full[:, 0], full[:, 2] / full[:, 0], s=13, c=_INK, linewidths=0, zorder=4)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("confidence", fontsize=8, color=_INK)
    axes.set_ylabel("share of correct voxels", fontsize=8, color=_INK)
    axes.tick_params(labelsize=7.5, color=_FAINT, labelcolor=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.patch.set_alpha(0)
    return _to_svg(figure)


def draw_map(places: Sequence[Place]) -> Markup:
    """Patients as dots; those chosen are large and named, those labelled already are squares."""
    figure = _figure(7.2, 4.8)
    axes = figure.subplots()
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99)
    for role, marker, size in (("", "o", 16), ("labelled", "s", 46), ("chosen", "o", 110)):
        shown = [place for place in places if place.role == role]
        if shown:
            style: dict[str, Any] = {"s": size, "marker": marker, "c": [place.color for place in shown]}
            points = axes.scatter([place.x for place in shown], [place.y for place in shown], **style)
            points.set(edgecolors=_INK if role else "white", linewidths=1.2 if role else 0.4, zorder=3 + bool(role))
            points.set(urls=[place.anchor for place in shown])
    for place in places:
        if place.role == "chosen":
            named: dict[str, Any] = {"fontsize": 8, "color": _INK, "zorder": 6, "parse_math": False}
            axes.annotate(_shortened(place.name), (place.x, place.y), (7, 5), textcoords="offset points", **named)
    axes.margins(0.08)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(_FAINT)
    axes.patch.set_alpha(0)
    return _to_svg(figure)


def _draw_box(axes: Axes, numbers: Sequence[float], row: int, color: str) -> None:
    style = {"color": color, "linewidth": 1.1}
    axes.boxplot(
        [numbers],
        positions=[row],
        widths=0.55,
        orientation="horizontal",
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": color + "26", "edgecolor": color, "linewidth": 1.1},
        medianprops={"color": _INK, "linewidth": 1.8, "zorder": 4},
        whiskerprops=style,
        capprops=style,
    )


def _outline(axes: Axes, classes: np.ndarray, colors: Sequence[str], linewidths: float) -> None:
    for index, color in enumerate(colors, start=1):
        mask = classes == index
        if mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors=[color], linewidths=linewidths)


def _fill(axes: Axes, classes: np.ndarray, colors: Sequence[str]) -> None:
    for index, color in enumerate(colors, start=1):
        mask = classes == index
        if mask.any():
            axes.contourf(mask, levels=[0.5, 1.5], colors=[color], alpha=0.55)


def _shortened(name: str, longest: int = 20) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _turned_hue(index: int) -> str:
    hue = math.modf(0.05 + index * (math.sqrt(5) - 1) / 2)[0]
    channels = colorsys.hsv_to_rgb(hue, 0.75, 0.7 if index % 2 else 0.9)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


def _figure(width: float, height: float) -> Figure:
    """An empty figure without a background, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="none")


def _to_svg(figure: Figure) -> Markup:
    """The figure's ``<svg>`` element; matplotlib escapes the texts in it."""
    import matplotlib as mpl

    text = io.StringIO()
    without = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vqseg_bundle"}):
        figure.savefig(text, format="svg", metadata=without, transparent=True)
    return Markup(_PNG.sub(_as_jpeg, text.getvalue()[text.getvalue().index("<svg") :]))


def _as_jpeg(found: re.Match[str]) -> str:
    """A grey slice, which matplotlib stores with four channels and without loss, at a tenth of the size."""
    png, file = Image.open(io.BytesIO(base64.b64decode(found[1]))), io.BytesIO()
    png.convert("L").save(file, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
