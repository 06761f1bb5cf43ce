"""Turns a slice as a reader expects it: the patient's right at the left, anterior or superior at the top."""

from __future__ import annotations

from typing import NamedTuple

import nibabel as nib
import numpy as np

__all__ = ["Upright", "find_upright"]


class Upright(NamedTuple):
    """How the two array axes of a slice are laid out as rows and columns.

    Attributes:
        transposed: whether the first axis runs along the columns' direction, to the right.
        row_step: 1, or -1 where the rows are turned upside down.
        column_step: 1, or -1 where left and right are exchanged.
        sides: letters of the patient's side at the left and at the upper edge, such as ("R", "A"); empty where the
            file holds no orientation.
        sizes: height and width of a pixel, mm.
    """

    transposed: bool
    row_step: int
    column_step: int
    sides: tuple[str, str]
    sizes: tuple[float, float]

    def turn(self, array: np.ndarray) -> np.ndarray:
        """Rows downwards, columns to the right.

        Args:
            array: a slice whose first two axes are those of the file, in order; a third one, of colours, stays.
        """
        turned = array.swapaxes(0, 1) if self.transposed else array
        return turned[:: self.row_step, :: self.column_step]


def find_upright(affine: np.ndarray, axis: int | None, oriented: bool = True, picture: bool = False) -> Upright:
    """How to turn slices of a volume, or an image.

    Args:
        affine: of the grid, ``(4, 4)`` to RAS in mm.
        axis: the volume's axis that the slices are taken along; None for an image of two axes.
        oriented: whether the affine tells directions; one that is the identity does not. Then the first axis of a
            volume points to the right and the second down.
        picture: whether the slice is a picture, whose first axis are its rows; matters without an orientation alone.
    """
    first, second = (0, 1) if axis is None else [other for other in range(3) if other != axis]
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    spacing = (float(lengths[first]), float(lengths[second]))
    if axis is None or (picture and not oriented):
        return Upright(False, 1, 1, ("", ""), spacing)
    if not oriented:
        return Upright(True, 1, 1, ("", ""), spacing[::-1])
    directions = nib.orientations.io_orientation(affine)
    (column, column_flip), (row, row_flip) = directions[first], directions[second]
    transposed = column < row
    if not transposed:
        column, column_flip, row, row_flip = row, row_flip, column, column_flip
    sides = ("RA"[int(column)], "AS"[int(row) - 1])
    # towards the right, the back and the feet: the other way round than RAS+
    return Upright(transposed, -int(row_flip), -int(column_flip), sides, spacing[::-1] if transposed else spacing)
