"""A picture of slices beside their foundation features and the adapted ones, in the colours of one PCA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["PictureRow", "centered", "colors", "save_picture"]

# Colours span the foundation features but for the outermost at each end.
_QUANTILE = 0.02


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
    """Unit-length features of a slice ``(N, C)`` less their mean.

    The alignment loss compares patches of one slice: a vector added to all its foundation features adds the same number
    to all logits of a patch and changes nothing. Slices differ by just such vectors.
    """
    unit = F.normalize(patches.float(), dim=-1)
    return unit - unit.mean(dim=0)


def colors(reference: Tensor, others: Sequence[Tensor]) -> list[Tensor]:
    """Colours of features: the three first principal components of the reference are red, green and blue.

    Args:
        reference: ``(N, C)``, N at least 3.
        others: ``(M, C)`` each; same components and same scale, so that like features have like colours.

    Returns:
        ``(N, 3)`` of the reference, then ``(M, 3)`` of each other, in [0, 1].
    """
    mean = reference.mean(dim=0)
    components = torch.linalg.svd(reference - mean, full_matrices=False).Vh[:3]
    # a singular vector's sign is arbitrary: its largest entry is made positive, on any machine
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    components = components * largest.sign()
    projected = [(each - mean) @ components.T for each in (reference, *others)]
    low, high = (projected[0].quantile(share, dim=0) for share in (_QUANTILE, 1 - _QUANTILE))
    span = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
    return [((each - low) / span).clamp(0, 1) for each in projected]


def save_picture(rows: Sequence[PictureRow], path: Path) -> None:
    """Write the picture; the colours are those of one PCA over all rows' foundation features.

    Args:
        rows: at least one, all with the same titles of maps.
        path: file to write, its ending the format.

    Raises:
        ImportError: matplotlib is missing.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    titles = list(rows[0].maps)
    joined = [torch.cat([centered(row.maps[title]) for row in rows]) for title in titles]
    by_title = [each.split([len(row.maps[titles[0]]) for row in rows]) for each in colors(joined[0], joined[1:])]
    size = (2.6 * (1 + len(titles)), 2.7 * len(rows))
    figure, axes = pyplot.subplots(len(rows), 1 + len(titles), figsize=size, squeeze=False, layout="constrained")
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
    pyplot.close(figure)
