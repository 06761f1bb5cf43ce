"""The input and output of a training, on slices of a cohort."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from vqseg_bundle.data import open_cohort, read_classes, read_voxels

__all__ = ["DESCRIPTION", "EPILOG", "add_options", "draw"]

DESCRIPTION = "Draw labelled and unlabelled scans of a cohort, and beside them a test case's prediction."
EPILOG = """example:
  python -m scripts.figures overview --predictions OUT/predictions --output overview.png
"""

_COLORS = mpl.color_sequences["Set1"]
_UNLABELED = 6


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command-line options of the figure."""
    add = parser.add_argument
    add("--predictions", required=True, metavar="FOLDER", help="predictions/ of an evaluation of the test cases")
    add("--datalist", metavar="FILE", help="datalist (default: the embedded demo cohort)")
    add("--dataset-dir", metavar="DIR", help="folder to which its paths are relative (default: the datalist's)")


def draw(options: argparse.Namespace, output: Path) -> None:
    """Draw the figure, of the demo cohort by default."""
    cohort = open_cohort(options.dataset_dir, options.datalist, "data/demo_cohort")
    _draw(cohort.splits(), Path(options.predictions)).savefig(output, dpi=110)


def _draw(splits: Mapping[str, Sequence[Mapping[str, Any]]], predictions: Path) -> Figure:
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    given, made = figure.subfigures(1, 2, squeeze=False, width_ratios=(5, 4)).ravel()
    _draw_given(given, splits["training"], splits["unlabeled"])
    case = splits["test"][0]
    _draw_made(made, case, predictions / f"{case['case']}_pred.nii.gz")
    return figure


def _draw_given(figure: SubFigure, labeled: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> None:
    figure.suptitle(f"in: {len(labeled)} labelled scans, {len(others)} unlabelled", fontsize=11)
    shown = [*labeled[:2], *others[:_UNLABELED]]
    for axes, case in zip(figure.subplots(2, 4).flat, shown, strict=False):
        image, place = _slice(case["image"], case.get("label"))
        _show(axes, image)
        if "label" in case:
            _outline(axes, read_classes(case["label"])[0][..., place])


def _draw_made(figure: SubFigure, case: Mapping[str, Any], prediction: Path) -> None:
    figure.suptitle("out: a model that segments new scans", fontsize=11)
    image, place = _slice(case["image"], case["label"])
    left, right = figure.subplots(1, 2)
    for axes, title, path in ((left, "prediction", str(prediction)), (right, "ground truth", case["label"])):
        _show(axes, image)
        _outline(axes, read_classes(path)[0][..., place])
        axes.set_title(title, fontsize=9)


def _slice(image: str, label: str | None) -> tuple[np.ndarray, int]:
    """The slice of a one-channel volume with the most foreground, or the middle one, and its index."""
    voxels = read_voxels(image)
    area = (read_classes(label)[0] > 0).sum((0, 1)) if label else np.zeros(voxels.shape[2])
    place = int(area.argmax()) if area.any() else voxels.shape[2] // 2
    return voxels[..., place], place


def _show(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image.T, cmap="gray", interpolation="nearest")
    axes.axis("off")


def _outline(axes: Axes, classes: np.ndarray) -> None:
    for index in range(1, int(classes.max()) + 1):
        axes.contour(index == classes.T, levels=[0.5], colors=[_COLORS[index - 1]], linewidths=1.3)
