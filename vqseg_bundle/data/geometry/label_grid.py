"""Labels stored with other axes than their images are brought to the images' grids without loss."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys

from ..formats.load_volume import OTHER_AFFINE

__all__ = ["LabelToImaged", "axis_change"]

_TOLERANCE = 1e-3  # share of a voxel's smallest side


class LabelToImaged(MapTransform):
    """Flip and permute labels that have their image's grid with axes in another order or direction.

    The grid is the one on which the image was read, regardless of later transforms. Voxels are moved, not resampled. If
    an image has two affines (NIfTI's sform and qform), the label may have either. Other labels are left unchanged; the
    data check refuses them.

    Args:
        keys: labels ``(1, *S)`` as MetaTensors, as LoadImaged reads them.
        image_key: the image; without meta data on how it was read, it must not have been moved yet.
        allow_missing_keys: skip missing keys.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Move every label, and give it the affine of the image's file."""
        output = dict(data)
        for key in self.key_iterator(output):
            output[key] = _move(output[key], output[self.image_key])
        return output


def axis_change(
    label_affine: np.ndarray, label_shape: Sequence[int], image_affine: np.ndarray, image_shape: Sequence[int]
) -> np.ndarray | None:
    """What flips and permutes a label's axes to its image's, given both affines ``(4, 4)`` and shapes.

    Returns:
        nibabel's orientation ``(3, 2)`` to apply to the label's array; None where the grids do not share their voxels
        to a thousandth of a voxel's smallest side.
    """
    change = nib.orientations.io_orientation(np.linalg.solve(image_affine, label_affine))
    shape = tuple(np.asarray(label_shape)[np.argsort(change[:, 0])])
    affine = label_affine @ nib.orientations.inv_ornt_aff(change, label_shape)
    tolerance = _TOLERANCE * float(np.linalg.norm(image_affine[:3, :3], axis=0).min())
    same = shape == tuple(image_shape) and np.abs(affine - image_affine).max() <= tolerance
    return change if same else None


def _move(label: MetaTensor, image: MetaTensor) -> MetaTensor:
    # a label may have been drawn in a program that reads the image's other affine
    read = image.meta.get(MetaKeys.ORIGINAL_AFFINE, image.affine)
    shape = tuple(image.meta.get(MetaKeys.SPATIAL_SHAPE, image.shape[1:]))
    affines = [np.asarray(affine, dtype=np.float64) for affine in (read, image.meta.get(OTHER_AFFINE, read))]
    changes = [axis_change(label.affine.cpu().numpy(), label.shape[1:], of, shape) for of in affines]
    change = next((found for found in changes if found is not None), None)
    if change is None:
        return label
    voxels = nib.orientations.apply_orientation(label.as_tensor().movedim(0, -1).numpy(), change)
    # copied: NumPy considers a reversed axis of one slice contiguous, PyTorch does not
    moved = torch.from_numpy(np.moveaxis(voxels, -1, 0).copy())
    brought = MetaTensor(moved, meta=label.meta)
    brought.affine = torch.as_tensor(read)
    return brought
