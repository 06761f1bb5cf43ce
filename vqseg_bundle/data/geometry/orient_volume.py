"""Brings volumes to one orientation, and predictions back, exactly."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import nibabel as nib
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform
from monai.transforms.spatial.functional import orientation as reorient

from .orientation import axis_directions, check_orientation, orientation_change

__all__ = ["OrientVolumed"]


class OrientVolumed(MapTransform, InvertibleTransform):
    """Flip and permute volumes to an orientation; the affine follows, nothing is resampled.

    As MONAI's Orientationd, with two differences for volumes turned by about 45 degrees: which axis is which does not
    depend on how a volume is stored (:func:`~vqseg_bundle.data.geometry.orientation.axis_directions`), and the inverse
    undoes what was done, where MONAI's chooses axes anew for the volume that was turned, and at times others.

    Args:
        keys: volumes ``(C, *S)`` as MetaTensors, as LoadImaged reads them.
        orientation: such as "RAS".
        allow_missing_keys: skip keys that are not there.

    Raises:
        ValueError: ``orientation`` is none.
    """

    def __init__(self, keys: KeysCollection, orientation: str, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        check_orientation(orientation)
        self.orientation = orientation

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring every key to the orientation by its own affine."""
        output = dict(data)
        for key in self.key_iterator(output):
            affine = output[key].affine.cpu().numpy()
            change = orientation_change(affine, self.orientation)
            output[key] = reorient(output[key], affine, change, False, self.get_transform_info())
        return output

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put the axes back as they were."""
        output = dict(data)
        for key in self.key_iterator(output):
            stored = axis_directions(self.pop_transform(output[key])["extra_info"]["original_affine"])
            change = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(self.orientation), stored)
            with self.trace_transform(False):
                output[key] = reorient(output[key], output[key].affine, change, False, self.get_transform_info())
        return output
