"""A picture of slices with their foundation features and adapted features, in the colours of one PCA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from matplotlib.figure import Figure
from torch import Tensor

from scripts.figures.token_map import principal_colors

__all__ = ["PictureRow", "centered", "save_picture"]


class PictureRow(NamedTuple):
    """One slice of the picture.

    Attributes:
        title: such as the case's name.
        image: ``(H, W)``.
        maps: patch vectors ``(h * w, C)`` by title; the first are the foundation features.
        grid: ``(h, w)``.
    """

    title: str
    image: Tensor
    maps: dict[str, Tensor]
    grid: tuple[int, int]


def centered(patches: Tensor) -> Tensor:
    """Unit-length features of a slice ``(N, C)`` minus their mean.

    The alignment loss compares patches of one slice: a vector added to all its foundation features adds the same number
    to all logits of a patch and changes nothing. Slices differ by such vectors.
    """
    unit = F.normalize(patches.float(), dim=-1)
    return unit - unit.mean(dim=0)


def save_picture(rows: Sequence[PictureRow], path: Path) -> None:
    """Write the picture; the colours are those of one PCA over all rows' foundation features.

    Args:
        rows: at least one, all with the same titles of maps.
        path: file to write, in the format of its ending.
    """
    titles = list(rows[0].maps)
    joined = [torch.cat([centered(row.maps[title]) for row in rows]) for title in titles]
    by_title = [
        each.split([len(row.maps[titles[0]]) for row in rows]) for each in principal_colors(joined[0], joined[1:])
    ]
    size = (2.6 * (1 + len(titles)), 2.7 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), 1 + len(titles), squeeze=False)
    for index, row in enumerate(rows):
        axes[index, 0].imshow(row.image.numpy(), cmap="gray")
        axes[index, 0].set_ylabel(row.title)
        for column, parts in enumerate(by_title, start=1):
            axes[index, column].imshow(parts[index].unflatten(0, row.grid).numpy(), interpolation="nearest")
    for axis, title in zip(axes[0], ["slice", *titles], strict=True):
        axis.set_title(title)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
