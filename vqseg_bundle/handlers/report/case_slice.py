"""The slice of a case in the report: patient's right on the left, anterior or superior at the top."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from monai.data import MetaTensor

__all__ = ["CaseSlice", "Thumbnail", "Upright", "cut_slice", "find_upright", "middle_slice", "spread_slices"]
_LARGEST_SIDE = 320
_MARGIN = 3.0
_SMALLEST_WINDOW = 96


class Upright(NamedTuple):
    """The layout of a slice's two array axes as rows and columns."""

    transposed: bool  # whether the first axis runs to the right
    row_step: int  # 1, or -1 if the rows are reversed
    column_step: int  # 1, or -1 if left and right are exchanged
    sides: tuple[str, str]  # the patient's at the left and upper edges, such as ("R", "A"); empty if unknown
    sizes: tuple[float, float]  # height and width of a pixel, mm

    def turn(self, array: np.ndarray) -> np.ndarray:
        """Rows downwards, columns to the right.

        Args:
            array: a slice with the file's two axes first, in order; a third axis, of colours, is kept.
        """
        turned = array.swapaxes(0, 1) if self.transposed else array
        return turned[:: self.row_step, :: self.column_step]


def find_upright(affine: np.ndarray, axis: int | None, oriented: bool = True, picture: bool = False) -> Upright:
    """The layout of a volume's slices across an axis, or of an image (axis None); affine ``(4, 4)`` to RAS in mm.

    Unless ``oriented``, the affine defines no directions: the first axis of a volume points right and the second down,
    but a ``picture``'s first axis is its rows.
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
    # towards the right, the back and the feet: opposite to RAS+
    return Upright(transposed, -int(row_flip), -int(column_flip), sides, spacing[::-1] if transposed else spacing)


class CaseSlice(NamedTuple):
    """One slice, rows down and columns to the right; images are uint8 ``(rows, columns)``, the others class indices.

    ``row_to_column`` is a pixel's height over its width; ``number`` counts from 1; ``sides`` are letters of the
    patient's sides at the left and upper edges, such as ("R", "A"), empty without an orientation; ``cut`` tells whether
    it is cropped around the foreground.
    """

    image: np.ndarray
    label: np.ndarray
    pred: np.ndarray
    reconstruction: np.ndarray | None
    row_to_column: float
    number: int
    slices: int
    sides: tuple[str, str]
    cut: bool


def cut_slice(
    image: torch.Tensor,
    label: MetaTensor,
    pred: torch.Tensor,
    choose_axis: Callable[[Sequence[int], np.ndarray], int],
    reconstruction: torch.Tensor | None = None,
) -> CaseSlice:
    """Take the slice with the most labelled foreground; without any, the most predicted, otherwise the middle one.

    If the affine is the identity, which means no orientation, the first axis of a volume points right and the second
    down; a single slice is a picture, with its rows first. Around a foreground smaller than a third of the slice, the
    picture is cropped. The first channel is shown, from its 0.5 to its 99.5 percentile. ValueError: the shapes differ.

    Args:
        image: ``(C, *S)`` of 2 or 3 axes.
        label: class indices ``(1, *S)``, with the affine of the grid.
        pred: class indices ``(1, *S)``.
        choose_axis: from the size of a volume's three axes and its affine to the axis along which to slice it.
        reconstruction: ``(C, *S)``, shown in the window of ``image``.
    """
    volumes = [volume for volume in (image, label, pred, reconstruction) if volume is not None]
    if any(volume.shape[1:] != label.shape[1:] for volume in volumes):
        raise ValueError(f"image, label and pred must lie on one grid, got {[tuple(v.shape) for v in volumes]}.")
    affine = label.affine.cpu().numpy().astype(np.float64)
    arrays = [_first_channel(volume) for volume in volumes]
    axis = choose_axis(label.shape[1:], affine) if label.ndim > 3 else None
    number, count = _choose(arrays[1], arrays[2], axis)
    if axis is not None:
        arrays = [np.take(array, number, axis=axis) for array in arrays]
    upright = find_upright(affine, axis, not np.allclose(affine, np.eye(4)), picture=count == 1)
    shown, sizes = [upright.turn(array) for array in arrays], upright.sizes
    low, high = np.percentile(shown[0], [0.5, 99.5])
    window, cut = _window(shown[1] + shown[2] > 0, sizes)
    shown = [array[window] for array in shown]
    return CaseSlice(
        _shrink(_to_bytes(shown[0], low, high), "area"),
        _shrink(shown[1].astype(np.uint8), "nearest-exact"),
        _shrink(shown[2].astype(np.uint8), "nearest-exact"),
        _shrink(_to_bytes(shown[3], low, high), "area") if len(shown) > 3 else None,
        sizes[0] / sizes[1],
        number + 1,
        count,
        upright.sides,
        cut,
    )


class Thumbnail(NamedTuple):
    """A slice as it is shown: uint8 ``(rows, columns)`` both, a pixel's height over its width, its number from 1."""

    image: np.ndarray
    classes: np.ndarray
    row_to_column: float
    number: int


def spread_slices(
    image: torch.Tensor,
    classes: MetaTensor,
    choose_axis: Callable[[Sequence[int], np.ndarray], int],
    count: int = 3,
    largest_side: int = 176,
) -> list[Thumbnail]:
    """Slices that divide the foreground, or without any the volume, into equal parts; of an image, the image.

    The layout is :func:`cut_slice`'s.

    Args:
        image: ``(C, *S)`` of 2 or 3 axes.
        classes: class indices ``(1, *S)``, with the affine of the grid.
        choose_axis: see :func:`cut_slice`.
        count: number of slices.
        largest_side: rows or columns, to which smaller ones are enlarged.
    """
    affine = classes.affine.cpu().numpy().astype(np.float64)
    arrays = [_first_channel(image), _first_channel(classes)]
    axis = choose_axis(classes.shape[1:], affine) if classes.ndim > 3 else None
    slices = 1 if axis is None else arrays[1].shape[axis]
    upright = find_upright(affine, axis, not np.allclose(affine, np.eye(4)), picture=slices == 1)
    low, high = np.percentile(arrays[0], [0.5, 99.5])
    shown = []
    for number in _spread(arrays[1], axis, count):
        cut = [upright.turn(array if axis is None else np.take(array, number, axis=axis)) for array in arrays]
        scale = largest_side / max(cut[0].shape)
        if scale > 1:  # so that contours are thin
            cut = [np.kron(array, np.ones((math.ceil(scale),) * 2, np.float32)) for array in cut]
        picture = _shrink(_to_bytes(cut[0], low, high), "area", largest_side)
        labels = _shrink(cut[1].astype(np.uint8), "nearest-exact", largest_side)
        shown.append(Thumbnail(picture, labels, upright.sizes[0] / upright.sizes[1], number + 1))
    return shown


def _spread(classes: np.ndarray, axis: int | None, count: int) -> list[int]:
    if axis is None:
        return [0]
    areas = (classes > 0).sum(axis=tuple(other for other in range(3) if other != axis)).astype(np.float64)
    shares = np.cumsum(areas if areas.any() else np.ones_like(areas))
    wanted = (np.arange(count) + 0.5) / count * shares[-1]
    return sorted({int(number) for number in np.searchsorted(shares, wanted)})


def middle_slice(image: MetaTensor, largest_side: int = 128) -> tuple[np.ndarray, float]:
    """The middle slice of a volume ``(C, H, W, D)``, upright, uint8 ``(rows, columns)``; a pixel's height over width.

    The first channel is shown, from its 0.5 to its 99.5 percentile; ``largest_side`` bounds rows and columns.
    """
    affine = image.affine.cpu().numpy().astype(np.float64)
    upright = find_upright(affine, 2, not np.allclose(affine, np.eye(4)), picture=image.shape[-1] == 1)
    shown = upright.turn(_first_channel(image[..., image.shape[-1] // 2]))
    low, high = np.percentile(shown, [0.5, 99.5])
    return _shrink(_to_bytes(shown, low, high), "area", largest_side), upright.sizes[0] / upright.sizes[1]


def _first_channel(volume: torch.Tensor) -> np.ndarray:
    plain = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
    return plain[0].detach().float().cpu().numpy()


def _choose(label: np.ndarray, pred: np.ndarray, axis: int | None) -> tuple[int, int]:
    """Index of the slice along an axis, and the number of slices; an image is its own slice."""
    if axis is None:
        return 0, 1
    others = tuple(other for other in range(3) if other != axis)
    for classes in (label, pred):
        areas = (classes > 0).sum(axis=others)
        if areas.any():
            return int(areas.argmax()), label.shape[axis]
    return label.shape[axis] // 2, label.shape[axis]


def _window(foreground: np.ndarray, sizes: tuple[float, float]) -> tuple[tuple[slice, slice], bool]:
    """The region to show, and whether it is cropped."""
    whole = (slice(0, foreground.shape[0]), slice(0, foreground.shape[1]))
    if not foreground.any():
        return whole, False
    bounds = [np.flatnonzero(foreground.any(axis=1 - axis))[[0, -1]] for axis in (0, 1)]
    length = _MARGIN * max((high - low + 1) * size for (low, high), size in zip(bounds, sizes, strict=True))
    window = []
    for (low, high), size, full in zip(bounds, sizes, foreground.shape, strict=True):
        wanted = min(full, max(math.ceil(length / size), _SMALLEST_WINDOW))
        start = int(np.clip((low + high + 1 - wanted) // 2, 0, full - wanted))
        window.append(slice(start, start + wanted))
    return (window[0], window[1]), (window[0], window[1]) != whole


def _to_bytes(image: np.ndarray, low: float, high: float) -> np.ndarray:
    if high <= low:
        return np.zeros(image.shape, np.uint8)
    return np.round(255 * np.clip((image - low) / (high - low), 0, 1)).astype(np.uint8)


def _shrink(image: np.ndarray, mode: str, largest_side: int = _LARGEST_SIDE) -> np.ndarray:
    scale = largest_side / max(image.shape)
    if scale >= 1:
        return np.ascontiguousarray(image)
    size = [max(1, round(length * scale)) for length in image.shape]
    tensor = torch.from_numpy(np.ascontiguousarray(image)).float()[None, None]
    return F.interpolate(tensor, size, mode=mode)[0, 0].round().byte().numpy()
