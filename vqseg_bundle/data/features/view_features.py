"""Foundation-model features of a view, sampled from those of whole slices.

Pixel coordinates, in units of the slice's patches, go through the same spatial transforms as the image. They then tell
where each of the view's patches is in the slice, and the stored features are interpolated there. Coordinates start as
separate keys, which cost nothing before the volume is cropped, and then become channels of the image, so that they are
transformed with it, in one call and with the same random draws as without them (MONAI's RandAffined draws once more for
every further key).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTrait
from monai.utils import ImageMetaKey
from torch import Tensor

from vqseg_bundle.common import FEATURES

from .slice_features import FoundationFeatureStore, load_features

__all__ = [
    "COORDINATE_KEYS",
    "AddTokenCoordinatesd",
    "JoinTokenCoordinatesd",
    "SampleFoundationFeaturesd",
    "sample_features",
]

#: Keys of the coordinates, to be listed beside "image" in each spatial transform before they are joined to it.
COORDINATE_KEYS = ("row", "column", "slice")

# Interpolating a constant may round it: a coordinate this close to a whole number is that slice.
_SAME_SLICE = 1e-3


class AddTokenCoordinatesd(MapTransform, RandomizableTrait):
    """Add the coordinates of every voxel of a volume, and the path of its slices' features.

    The coordinates are float32 ``(1, H, W, D)`` each, expanded views of one row of numbers: rows and columns in patches
    of the slice's grid (see :meth:`SliceGrid.coordinates`), slices by number. The transform is not random; the trait
    only keeps it out of what ``CacheDataset`` stores, where the views would be copied in full.

    Args:
        store: finds the file of an image by the path in LoadImaged's meta data.
        image_key: the volume, a MetaTensor ``(C, H, W, D)`` after all deterministic transforms.

    Raises:
        ValueError: the image is not in the store.
    """

    def __init__(self, store: FoundationFeatureStore, image_key: str = "image") -> None:
        super().__init__(image_key)
        self.store = store
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the coordinates and the path."""
        output = dict(data)
        image = output[self.image_key]
        rows, columns, slices = size = tuple(image.shape[1:])
        grid = self.store.rule.choose((rows, columns))
        lines = (grid.coordinates(rows, 0), grid.coordinates(columns, 1), torch.arange(slices, dtype=torch.float32))
        for axis, (key, line) in enumerate(zip(COORDINATE_KEYS, lines, strict=True)):
            shape = [-1 if other == axis else 1 for other in range(3)]
            output[key] = line.view(1, *shape).expand(1, *size)
        output[FEATURES] = str(self.store.path(image.meta[ImageMetaKey.FILENAME_OR_OBJ]))
        return output


class JoinTokenCoordinatesd(MapTransform):
    """Make the coordinates the last channels of the image, and drop their keys.

    Place this after the first crop, where the image is small, and before any interpolation.

    Args:
        image_key: the image, cropped like its coordinates.

    Raises:
        ValueError: coordinates are missing or of another size than the image.
    """

    def __init__(self, image_key: str = "image") -> None:
        super().__init__([image_key, *COORDINATE_KEYS])
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Join them."""
        output = dict(data)
        image = output[self.image_key]
        found = {key: tuple(output[key].shape[1:]) for key in COORDINATE_KEYS if key in output}
        expected = tuple(image.shape[1:])
        if len(found) < len(COORDINATE_KEYS) or set(found.values()) != {expected}:
            raise ValueError(
                f"foundation_features 'cached': the image has {expected} voxels here, its coordinates {found}. Name "
                f"the keys {', '.join(COORDINATE_KEYS)} beside image in each spatial transform before "
                "JoinTokenCoordinatesd, or use foundation_features 'exact'."
            )
        coordinates = [output.pop(key).as_subclass(torch.Tensor) for key in COORDINATE_KEYS]
        joined = torch.cat([image.as_subclass(torch.Tensor), *coordinates])  # (C + 3, *S)
        output[self.image_key] = MetaTensor(joined, meta=image.meta) if isinstance(image, MetaTensor) else joined
        return output


class SampleFoundationFeaturesd(MapTransform):
    """Remove the coordinates from the image, and replace the path of a case's features by the features of the view.

    Args:
        grid: patches of a view along rows and columns.
        depth: for volumes, the number of slices to sample: the central ones of that many equal parts, as in
            ``FoundationModel``; None means all.
        image_key: the view ``(C + 3, H, W)`` or ``(C + 3, H, W, D)``.

    Raises:
        ValueError: the coordinates were not joined to the image, or the file is missing or damaged.
    """

    def __init__(self, grid: Sequence[int], depth: int | None = None, image_key: str = "image") -> None:
        super().__init__([image_key, FEATURES])
        self.grid = (int(grid[0]), int(grid[1]))
        self.depth = depth
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put float32 ``(channels, *grid)`` under "foundation_features", for volumes ``(channels, *grid, depth)``."""
        output = dict(data)
        if any(key in output for key in COORDINATE_KEYS):
            raise ValueError(
                "foundation_features 'cached': the coordinates were not joined to the image. Put JoinTokenCoordinatesd "
                "first into geometric_transforms, or use foundation_features 'exact'."
            )
        view = output[self.image_key]
        coordinates = view[-len(COORDINATE_KEYS) :].as_subclass(torch.Tensor)
        output[self.image_key] = view[: -len(COORDINATE_KEYS)]
        is_volume = coordinates.ndim == 4
        places = self._patch_centers(coordinates if is_volume else coordinates.unsqueeze(-1))
        features = sample_features(load_features(output[FEATURES]), places)
        output[FEATURES] = features if is_volume else features.squeeze(-1)
        return output

    def _patch_centers(self, coordinates: Tensor) -> Tensor:
        """``(3, H, W, D)`` sampled at the centres of the view's patches, ``(3, *grid, depth)``."""
        slices = coordinates.shape[-1]
        depth = slices if self.depth is None else self.depth
        centers = [(2 * k + 1) * slices // (2 * depth) for k in range(depth)]
        planes = coordinates[..., centers].movedim(-1, 0)  # (depth, 3, H, W)
        # linear between the pixels next to a centre, hence exact for affine maps
        return F.interpolate(planes, size=self.grid, mode="bilinear", align_corners=False).movedim(0, -1)


def sample_features(stored: np.ndarray, places: Tensor) -> Tensor:
    """Interpolate features linearly, with constant values beyond the outermost patch centres.

    Args:
        stored: ``(D, channels, h, w)``, of which only the needed slices are read.
        places: ``(3, *G)`` with three axes G: row and column in patches, slice number, 0 at the first centre.

    Returns:
        Float32 ``(channels, *G)``.
    """
    slices = places[2].clamp(0, len(stored) - 1)
    low, high = int(torch.floor(slices.min() + _SAME_SLICE)), int(torch.ceil(slices.max() - _SAME_SLICE))
    block = torch.from_numpy(np.asarray(stored[low : high + 1], dtype=np.float32)).movedim(0, 1)  # (C, d, h, w)
    lengths = torch.tensor(block.shape[:0:-1])  # w, h, d: grid_sample expects x, y, z
    positions = torch.stack((places[1], places[0], slices - low), dim=-1)
    normalized = (2 * positions + 1) / lengths - 1  # centres of the outermost patches are half a patch inside -1 and 1
    return F.grid_sample(
        block.unsqueeze(0), normalized.unsqueeze(0), mode="bilinear", padding_mode="border", align_corners=False
    ).squeeze(0)
