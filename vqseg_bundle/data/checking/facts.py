"""What the checks know: geometry of files, figures about voxels that depend on nothing else, and cases of these."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import nibabel as nib
import numpy as np

from ..cohorts.datalist import DataError
from ..formats.class_names import read_class_names
from ..formats.nifti import is_packed
from ..formats.volume_io import VolumeHeader, read_classes, read_header, read_label_values, read_voxels
from ..formats.volume_path import channel_paths, parse_volume_path
from .intensities import body_intensities, find_padding, find_sentinel, nonzero_share, ordered_sample, percentiles

__all__ = [
    "CaseFacts",
    "HeaderFacts",
    "ImageFacts",
    "LabelFacts",
    "facts_from_json",
    "facts_to_json",
    "gather_cases",
    "read_facts",
    "with_class_indices",
]

_BLOCK = 2**20
_MOST_VALUES_KEPT = 256
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class HeaderFacts:
    """Geometry of a file like :class:`VolumeHeader`, but an affine is 16 numbers, row by row, or empty for none."""

    shape: tuple[int, ...]
    affine: tuple[float, ...]
    other_affine: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    modality: str = ""
    colors: tuple[str, ...] = ()
    class_names: tuple[tuple[int, str], ...] = ()  # of a label's values, as the file states them

    @cached_property
    def header(self) -> VolumeHeader:
        """The same in the reader's own type, for its rules about axes."""
        other = np.array(self.other_affine).reshape(4, 4) if self.other_affine else None
        affine = np.array(self.affine).reshape(4, 4)
        return VolumeHeader(self.shape, affine, other, self.notes, self.modality, self.colors)

    @cached_property
    def spacing(self) -> tuple[float, ...]:
        """Length of a voxel along each spatial axis, mm."""
        return tuple(float(v) for v in np.linalg.norm(self.header.affine[:3, :3], axis=0))

    @cached_property
    def axis_codes(self) -> str:
        """Directions of the axes, such as ``"RAS"``: to the patient's right, front and head."""
        return "".join(nib.aff2axcodes(self.header.affine))


@dataclass(frozen=True)
class ImageFacts:
    """Figures about an image's voxels, over all channels."""

    size: int  # number of voxels
    not_finite: int  # NaN or infinite as float32; if any, only size and too_large count
    low: float = 0.0  # smallest intensity
    high: float = 0.0  # largest intensity
    spread: float = 0.0  # distance of the 0.5 and 99.5 percentiles of a sample
    digest: str = ""  # SHA-256 of shape and float32 voxels: the stored type does not matter
    too_large: float | None = None  # a finite value that is infinite as float32, if any
    sentinel: float | None = None  # see find_sentinel
    padding: float | None = None  # see find_padding
    body: tuple[float, ...] = ()  # 0.5 and 99.5 percentiles, mean and standard deviation of a sample without air
    nonzero_share: float = 1.0  # of the voxels that lie within the box around those that are not zero


@dataclass(frozen=True)
class LabelFacts:
    """Figures about a label's voxels."""

    size: int  # number of voxels
    num_values: int  # number of different values
    counts: tuple[tuple[float | None, int], ...]  # the smallest 256 values and how many voxels have each; NaN is None
    whole: bool  # whether all values are whole numbers
    digest: str  # as for images
    mapped: bool = False  # whether 255 was read as class 1 of a mask of 0 and 255
    not_finite: int = 0  # voxels that are NaN or infinite
    lone_slices: int = 0  # slices that are not 0, if along some axis none of three or more has a neighbour that is not


Facts = HeaderFacts | ImageFacts | LabelFacts
_TYPES: dict[str, type[HeaderFacts] | type[ImageFacts] | type[LabelFacts]] = {
    "header": HeaderFacts,
    "image": ImageFacts,
    "label": LabelFacts,
    "values": LabelFacts,
}


def read_facts(path: str, kind: str) -> Facts:
    """Read a ``"header"``, or voxels as ``"image"``, ``"label"`` or stored ``"values"``; DataError if unreadable."""
    if kind == "header":
        header = read_header(path)
        other = () if header.other_affine is None else _row_by_row(header.other_affine)
        shape = tuple(map(int, header.shape))
        more = (header.notes, header.modality, header.colors, tuple(read_class_names(path).items()))
        return HeaderFacts(shape, _row_by_row(header.affine), other, *more)
    readers = {"image": read_voxels, "values": read_label_values}
    voxels, mapped = read_classes(path) if kind == "label" else (readers[kind](path), False)
    for channel in channel_paths(path):
        _check_packing(channel)
    return _image_facts(voxels) if kind == "image" else _label_facts(voxels, mapped)


def facts_to_json(facts: Facts) -> dict[str, Any]:
    """Facts in JSON form."""
    return asdict(facts)


def facts_from_json(kind: str, content: Mapping[str, Any]) -> Facts:
    """The inverse of :func:`facts_to_json`; TypeError or ValueError for other content."""
    values = dict(content)
    for key in ("shape", "affine", "other_affine", "notes", "colors", "body"):
        if key in values:
            values[key] = tuple(values[key])
    if "class_names" in values:
        values["class_names"] = tuple((int(value), str(name)) for value, name in values["class_names"])
    if "counts" in values:
        values["counts"] = tuple((value, int(count)) for value, count in values["counts"])
    return _TYPES[kind](**values)


def _row_by_row(affine: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in np.ravel(affine))


def _check_packing(path: str) -> None:
    """Unpack to the end, where the checksum is; readers that know the volume's length never reach it."""
    file = parse_volume_path(path).file
    if not file.is_file() or not is_packed(file):
        return
    try:
        with gzip.open(file) as packed:
            while packed.read(_BLOCK):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: truncated or unreadable ({error}); copy it again.") from error


def _image_facts(voxels: np.ndarray) -> ImageFacts:
    low, high = float(voxels.min()), float(voxels.max())
    if not -_LARGEST <= low <= high <= _LARGEST:  # or NaN
        away = ~np.isfinite(_as_single(voxels))
        too_large = voxels[away & np.isfinite(voxels)]
        return ImageFacts(voxels.size, int(away.sum()), too_large=float(too_large[0]) if too_large.size else None)
    ordered = ordered_sample(voxels)
    channels = [ordered_sample(channel) for channel in np.moveaxis(voxels, 3, 0)] if voxels.ndim > 3 else [ordered]
    bottom, top = percentiles(ordered, 0.5, 99.5)
    return ImageFacts(
        voxels.size,
        0,
        low,
        high,
        float(top - bottom),
        _digest(voxels),
        sentinel=next((value for value in map(find_sentinel, channels) if value is not None), None),
        padding=next((value for value in map(find_padding, channels) if value is not None), None),
        body=body_intensities(ordered),
        nonzero_share=nonzero_share(voxels),
    )


def _label_facts(voxels: np.ndarray, mapped: bool) -> LabelFacts:
    values, counts = _count_values(voxels)
    kept = [
        (None if math.isnan(value) else float(value), int(count))
        for value, count in zip(values[:_MOST_VALUES_KEPT], counts, strict=False)
    ]
    finite = np.isfinite(values)
    whole = bool(finite.all() and (values == np.floor(values)).all())
    not_finite = int(counts[~finite].sum())
    lone = _lone_slices(voxels) if len(values) > 1 else 0
    return LabelFacts(voxels.size, len(values), tuple(kept), whole, _digest(voxels), mapped, not_finite, lone)


def _lone_slices(voxels: np.ndarray) -> int:
    foreground = voxels != 0
    for axis in range(voxels.ndim):
        others = tuple(other for other in range(voxels.ndim) if other != axis)
        slices = np.flatnonzero(foreground.any(axis=others))
        if len(slices) > 2 and np.diff(slices).min() > 1:
            return len(slices)
    return 0


def _count_values(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values in ascending order and their counts; small integers are counted without sorting."""
    flat = voxels.ravel(order="K")
    if flat.dtype.kind in "bu" and flat.dtype.itemsize <= 2:
        counts = np.bincount(flat)
        values = np.flatnonzero(counts)
        return values, counts[values]
    return np.unique(flat, return_counts=True)


def _digest(voxels: np.ndarray) -> str:
    digest = hashlib.sha256(f"{voxels.shape}".encode())
    # plus zero, so that -0 and 0 are one value
    digest.update((np.ascontiguousarray(_as_single(voxels.T)) + 0).data)
    return digest.hexdigest()


def _as_single(voxels: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return voxels.astype(np.float32)


@dataclass(frozen=True)
class CaseFacts:
    """A case and the facts of its files; None stands for no such file, an unreadable one, or one not looked at.

    ``split`` is empty for a bare list of cases, ``patient`` where it is unknown; ``image`` and ``label`` are paths.
    """

    split: str
    image: str
    patient: str
    label: str | None = None
    image_header: HeaderFacts | None = None
    label_header: HeaderFacts | None = None
    image_voxels: ImageFacts | None = None
    label_voxels: LabelFacts | None = None


def gather_cases(
    splits: Mapping[str, Sequence[Mapping[str, str]]], facts: Mapping[tuple[str, str], Facts]
) -> list[CaseFacts]:
    """Join cases by split (dicts with ``image``, perhaps ``label`` and ``patient``) to facts by path and kind."""
    found = []
    for split, cases in splits.items():
        for case in cases:
            image, label = case["image"], case.get("label")
            parts = {
                "image_header": facts.get((image, "header")),
                "image_voxels": facts.get((image, "image")),
                "label_header": facts.get((label, "header")) if label else None,
                "label_voxels": (facts.get((label, "label")) or facts.get((label, "values"))) if label else None,
            }
            found.append(CaseFacts(split, image, case.get("patient", ""), label, **parts))  # type: ignore[arg-type]
    return found


def with_class_indices(cases: Sequence[CaseFacts], label_values: Mapping[int, int]) -> list[CaseFacts]:
    """The same cases with class indices in place of label values (``label_values``: index to value), others dropped."""
    indices = {value: index for index, value in label_values.items()}
    if not indices:
        return list(cases)
    found = []
    for case in cases:
        voxels = case.label_voxels
        if voxels is not None:
            counts = [(float(indices[int(v)]), n) for v, n in voxels.counts if v is not None and v in indices]
            voxels = replace(voxels, counts=tuple(sorted(counts)))
        found.append(replace(case, label_voxels=voxels))
    return found
