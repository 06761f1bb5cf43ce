"""Patch grids of whole slices for a foundation model: one patch covers the same tissue as in a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

__all__ = ["SliceGrid", "SliceGridRule"]

_ROUNDING = 1e-6
# A patch of a whole slice may cover this many times the length in a view before the features are too coarse.
_COARSEST = 2.0


@dataclass(frozen=True)
class SliceGrid:
    """The grid for one slice size."""

    side: int  # patches along each axis of the model's square input
    padded: tuple[int, int]  # pixels of the padded slice, which fill that input
    tokens: tuple[int, int]  # patches per axis that the slice covers, at least in part

    def coordinates(self, size: int, axis: int) -> Tensor:
        """Positions of ``size`` pixels' centres along an axis (0: rows, 1: columns), in patches; 0 is the first centre.

        Returns:
            Float32 ``(size,)``.
        """
        return (torch.arange(size) + 0.5) * (self.side / self.padded[axis]) - 0.5


@dataclass(frozen=True)
class SliceGridRule:
    """Chooses the grid of a slice from the grid of a view.

    Args:
        view_size: pixels of a view along rows and columns.
        view_grid: patches of a view along rows and columns.
        max_side: patches along the model's largest intended input; larger slices get a coarser grid.

    Raises:
        ValueError: a size is not positive.
    """

    view_size: tuple[int, int]
    view_grid: tuple[int, int]
    max_side: int

    def __post_init__(self) -> None:
        for name, value in (("view_size", self.view_size), ("view_grid", self.view_grid)):
            if len(value) != 2 or min(value) < 1:
                raise ValueError(f"{name} must hold two positive sizes, got {tuple(value)}.")
        if self.max_side < 1:
            raise ValueError(f"max_side must be at least 1, got {self.max_side}.")

    def choose(self, slice_size: Sequence[int]) -> SliceGrid:
        """The grid of a slice with given rows and columns, square like the models' inputs.

        ValueError: ``max_side`` makes the grid more than twice as coarse as the view's.
        """
        steps = [pixels / patches for pixels, patches in zip(self.view_size, self.view_grid, strict=True)]
        spans = [length / step for length, step in zip(slice_size, steps, strict=True)]  # in the view's patches
        side = min(ceil(max(spans) - _ROUNDING), self.max_side)
        coarseness = max(1.0, max(spans) / side)
        if coarseness > _COARSEST:
            raise ValueError(
                f"foundation_features 'cached': a slice of {tuple(slice_size)} pixels needs {ceil(max(spans))} patches "
                f"a side to be as fine as a view of {self.view_size} pixels with {self.view_grid} patches, but the "
                f"model is meant for {self.max_side}, {coarseness:.1f} times coarser; at most {_COARSEST:g} times is "
                "taken. Use foundation_features 'exact', a smaller foundation_image_size, or a larger patch_size."
            )
        padded = [max(length, round(side * step * coarseness)) for length, step in zip(slice_size, steps, strict=True)]
        tokens = [
            min(side, ceil(length * side / whole - _ROUNDING)) for length, whole in zip(slice_size, padded, strict=True)
        ]
        return SliceGrid(side, (padded[0], padded[1]), (tokens[0], tokens[1]))
