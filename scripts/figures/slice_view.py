"""How a slice on the network's grid is shown: upright, without its padding, pixels in their true shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from monai.data import MetaTensor

from vqseg_bundle.handlers import Upright, find_upright

__all__ = ["SliceView", "view_slices"]


class SliceView(NamedTuple):
    """The same for every slice of a volume.

    Attributes:
        inside: what of a slice's two axes is image, not padding.
        upright: how it is turned.
    """

    inside: tuple[slice, slice]
    upright: Upright

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width."""
        return self.upright.sizes[0] / self.upright.sizes[1]

    def show(self, array: np.ndarray) -> np.ndarray:
        """Rows downwards, columns to the right.

        Args:
            array: ``(H, W)`` or ``(H, W, 3)``, a slice along the volume's last axis.
        """
        return self.upright.turn(array[self.inside])

    def within(self, starts: Sequence[int], lengths: Sequence[int]) -> SliceView:
        """The view of a part of the slices.

        Args:
            starts: where the part begins, along both axes.
            lengths: its size.
        """
        cuts = [
            slice(max(0, known.start - start), min(length, known.stop - start))
            for known, start, length in zip(self.inside, starts, lengths, strict=False)
        ]
        return SliceView((cuts[0], cuts[1]), self.upright)


def view_slices(volume: MetaTensor) -> SliceView:
    """The view of slices along the last axis.

    Args:
        volume: ``(C, *S)``, loaded and preprocessed by MONAI's transforms.
    """
    oriented = not np.allclose(np.asarray(volume.meta["original_affine"]), np.eye(4))
    single = volume.shape[-1] == 1
    affine = volume.affine.cpu().numpy().astype(np.float64)
    first, second = _padding(volume)
    upright = find_upright(affine, volume.ndim - 2, oriented, picture=single)
    return SliceView((first, second), upright)


def _padding(volume: MetaTensor) -> list[slice]:
    """What of the first two axes is image: the preprocessing pads last of all."""
    last = volume.applied_operations[-1] if volume.applied_operations else {}
    widths = last["extra_info"]["padded"] if last.get("class") == "SpatialPad" else ((0, 0),) * volume.ndim
    return [slice(before, size - after) for (before, after), size in zip(widths[1:3], volume.shape[1:3], strict=True)]
