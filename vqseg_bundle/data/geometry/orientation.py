"""Directions of volumes' axes, as letters ("RAS": to the right, front and head), and how to change them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.transforms.spatial.functional import orientation as reorient
from monai.utils import MetaKeys

from ..errors import DataError
from ..formats.file_format import corner_distance, same_grid_limit
from ..formats.load_volume import OTHER_AFFINE
from ..formats.volume_io import VolumeHeader, read_header

__all__ = [
    "AXIS_ENDS",
    "LabelToImaged",
    "OrientVolumed",
    "axis_change",
    "axis_directions",
    "check_orientation",
    "find_orientation",
    "grid_distance",
    "orient_header",
    "orientation_change",
    "readable_headers",
    "run_orientation",
]

#: letters of both ends of the three axes of RAS
AXIS_ENDS = ("RL", "AP", "SI")
_USUAL = "RAS"
_DIGITS = 4  # of direction cosines considered different
_UNCHANGED = [[0, 1], [1, 1], [2, 1]]  # nibabel's orientation of axes as they are


def run_orientation(images: Iterable[str], orientation: str | None) -> str | None:
    """The orientation to which all volumes of an evaluation or inference are brought; None leaves them as stored.

    A model without a recorded orientation (``orientation`` None) was trained on volumes as stored, so volumes that
    share one orientation are left unchanged. If there are several, they cannot all be right: all are brought to the
    most common one. Unreadable volumes are ignored. ValueError: ``orientation`` is invalid.
    """
    check_orientation(orientation)
    if orientation is not None:
        return orientation
    counts = Counter(find_orientation(header) for header in readable_headers(images).values())
    if len(counts) < 2:
        return None
    return min(counts, key=lambda codes: (-counts[codes], codes != _USUAL, codes))


def check_orientation(orientation: str | None) -> None:
    """Check that an orientation names three directions.

    Raises:
        ValueError: ``orientation`` is neither None nor one of R and L, A and P, S and I each, in any order.
    """
    known = isinstance(orientation, str) and len(orientation) == 3
    if orientation is not None and not (known and all(len(set(ends) & set(orientation)) == 1 for ends in AXIS_ENDS)):
        raise ValueError(
            'orientation must name the directions of three axes, such as "RAS" (right, front, head) or "LPS", or be '
            f"null, got {orientation!r}."
        )


def axis_directions(affine: np.ndarray) -> np.ndarray:
    """The axis of RAS assigned to each axis of a volume, and its direction, like nibabel's ``io_orientation``.

    Of the 48 possibilities, the one whose three axes together are nearest to the volume's. It never mirrors a volume:
    none of the other handedness is as near as the nearest of the same. (nibabel assigns axes one by one, which mirrors
    some volumes rotated by about 45 degrees.) Ties are decided by the axes' directions, not by their stored order.

    Returns:
        ``(3, 2)``: for each axis of the volume, 0, 1 or 2 and 1 or -1.
    """
    return _directions_of(np.asarray(affine, dtype=float)[:3, :3].tobytes()).copy()


@lru_cache(maxsize=2**14)  # most scans of a cohort share their axes, and each is asked for several times
def _directions_of(axes: bytes) -> np.ndarray:
    columns = np.frombuffer(axes).reshape(3, 3)
    left, _, right = np.linalg.svd(columns / np.linalg.norm(columns, axis=0))
    rotation = left @ right  # the nearest without shear

    def rank(axes: Sequence[int]) -> tuple[float, ...]:
        signs = np.sign(rotation[axes, range(3)])
        led = (rotation * signs)[:, np.argsort(axes)]
        return (round(float(np.trace(led)), _DIGITS), *np.round(led, _DIGITS).ravel())

    best = max(map(list, itertools.permutations(range(3))), key=rank)
    return np.stack([best, np.sign(rotation[best, range(3)])], axis=1)


def orientation_change(affine: np.ndarray, orientation: str) -> np.ndarray:
    """The flips and permutation that bring a volume's axes to an orientation, in nibabel's form ``(3, 2)``."""
    return nib.orientations.ornt_transform(axis_directions(affine), nib.orientations.axcodes2ornt(orientation))


def find_orientation(header: VolumeHeader) -> str:
    """The directions nearest to a volume's axes, such as "LPS"; "RAS" if the affine is the identity."""
    return "".join(nib.orientations.ornt2axcodes(axis_directions(header.affine)))


def orient_header(header: VolumeHeader, orientation: str) -> VolumeHeader:
    """The header of the same volume with its axes flipped and permuted to an orientation."""
    change = orientation_change(header.affine, orientation)
    shape = np.asarray(header.spatial_shape)[np.argsort(change[:, 0])]
    affine = header.affine @ nib.orientations.inv_ornt_aff(change, header.spatial_shape)
    return VolumeHeader((*(int(size) for size in shape), *header.shape[3:]), affine)


def readable_headers(images: Iterable[str]) -> Mapping[str, VolumeHeader]:
    """The headers of volumes, each path once; unreadable ones are left out."""
    found = {}
    for image in dict.fromkeys(images):
        try:
            found[image] = read_header(image)
        except DataError:
            continue
    return found


class OrientVolumed(MapTransform, InvertibleTransform):
    """Flip and permute volumes to an orientation; the affine follows, nothing is resampled.

    Like MONAI's Orientationd, with two differences for volumes rotated by about 45 degrees: the assignment of axes does
    not depend on how a volume is stored (:func:`~vqseg_bundle.data.geometry.orientation.axis_directions`), and the
    inverse undoes what was done, while MONAI's assigns axes anew, sometimes differently.

    Args:
        keys: volumes ``(C, *S)`` as MetaTensors, as LoadImaged reads them.
        orientation: such as "RAS".
        allow_missing_keys: skip missing keys.

    Raises:
        ValueError: ``orientation`` is not valid.
    """

    def __init__(self, keys: KeysCollection, orientation: str, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        check_orientation(orientation)
        self.orientation = orientation

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring every key to the orientation, by its own affine."""
        output = dict(data)
        for key in self.key_iterator(output):
            affine = output[key].affine.cpu().numpy()
            change = orientation_change(affine, self.orientation)
            output[key] = reorient(output[key], affine, change, False, self.get_transform_info())
        return output

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore the axes."""
        output = dict(data)
        for key in self.key_iterator(output):
            stored = axis_directions(self.pop_transform(output[key])["extra_info"]["original_affine"])
            change = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(self.orientation), stored)
            with self.trace_transform(False):
                output[key] = reorient(output[key], output[key].affine, change, False, self.get_transform_info())
        return output


class LabelToImaged(MapTransform):
    """Flip and permute labels that have their image's grid with axes in another order or direction.

    The grid is the one on which the image was read, regardless of later transforms. Voxels are moved, not resampled. If
    an image has two affines (NIfTI's sform and qform), the label may have either, and stays as it is if it has one of
    them exactly. Other labels are left unchanged; the
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
    """The flips and permutation that bring a label's axes to its image's, given both affines ``(4, 4)`` and shapes.

    Returns:
        nibabel's orientation ``(3, 2)`` to apply to the label's array; None if the shapes or grids differ, see
        :func:`grid_distance`.
    """
    apart = grid_distance(label_affine, label_shape, image_affine, image_shape)
    if apart is None or apart > same_grid_limit(image_affine):
        return None
    return _to_image_axes(label_affine, image_affine)


def grid_distance(
    label_affine: np.ndarray, label_shape: Sequence[int], image_affine: np.ndarray, image_shape: Sequence[int]
) -> float | None:
    """How far a label's corners lie from its image's, in mm, without the flips and permutation that loading undoes.

    An axis of one voxel counts as one of two, so that the thickness of a single slice is compared. None: the shapes
    differ.
    """
    change = _to_image_axes(label_affine, image_affine)
    if tuple(np.asarray(label_shape)[np.argsort(change[:, 0])]) != tuple(image_shape):
        return None
    affine = label_affine @ nib.orientations.inv_ornt_aff(change, label_shape)
    return corner_distance(affine, image_affine, [max(size, 2) for size in image_shape])


def _to_image_axes(label_affine: np.ndarray, image_affine: np.ndarray) -> np.ndarray:
    return nib.orientations.io_orientation(np.linalg.solve(image_affine, label_affine))


def _move(label: MetaTensor, image: MetaTensor) -> MetaTensor:
    # a label may have been drawn in a program that reads the image's other affine
    read = image.meta.get(MetaKeys.ORIGINAL_AFFINE, image.affine)
    shape = tuple(image.meta.get(MetaKeys.SPATIAL_SHAPE, image.shape[1:]))
    affines = [np.asarray(affine, dtype=np.float64) for affine in (read, image.meta.get(OTHER_AFFINE, read))]
    changes = [axis_change(label.affine.cpu().numpy(), label.shape[1:], of, shape) for of in affines]
    found = [change for change in changes if change is not None]
    if not found:
        return label
    # where the two affines mirror each other, the label lies on both grids, on one of them as it is stored
    change = next((each for each in found if np.array_equal(each, _UNCHANGED)), found[0])
    voxels = nib.orientations.apply_orientation(label.as_tensor().movedim(0, -1).numpy(), change)
    # copied: NumPy considers a reversed axis of one slice contiguous, PyTorch does not
    moved = torch.from_numpy(np.moveaxis(voxels, -1, 0).copy())
    brought = MetaTensor(moved, meta=label.meta)
    brought.affine = torch.as_tensor(read)
    return brought
