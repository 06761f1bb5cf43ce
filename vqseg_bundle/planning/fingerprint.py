"""The measures of a cohort and of the machine on which its training is planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["BodyIntensities", "Fingerprint", "Machine"]


@dataclass(frozen=True)
class BodyIntensities:
    """Intensities of the voxels that are not air, over all scans.

    Attributes:
        low: median over the scans of their 0.5 percentiles, which no single faulty scan moves; ``high`` likewise of
            the 99.5 percentiles.
        high: see ``low``.
        mean: mean of the scans' means.
        deviation: standard deviation of the voxels of all scans together.
    """

    low: float
    high: float
    mean: float
    deviation: float


@dataclass(frozen=True)
class Fingerprint:
    """What a plan follows from: the scans to train on, labelled and unlabelled.

    Attributes:
        shapes: voxels of each scan along the two axes of a slice and across the slices.
        spacings: mm between these voxels, in the same order.
        slice_axis: the name of the slices, or the number of the axis across them.
        without_geometry: scans whose affine is the identity, such as pictures: their spacing means nothing.
        labeled: labelled scans.
        sparse: whether these are prepared a second time, as unlabelled, for what their labels leave out.
        validation: scans to validate on, which are not among the shapes.
        channels: channels of an image.
        modality: "CT" for Hounsfield units, "" for any other or an unknown one.
        body: intensities; None if no voxels were read.
        nonzero_share: median share of a scan's voxels within the box around those that are not zero; None if no voxels
            were read.
    """

    shapes: tuple[tuple[int, int, int], ...]
    spacings: tuple[tuple[float, float, float], ...]
    slice_axis: int | str = "axial"
    without_geometry: int = 0
    labeled: int = 0
    sparse: bool = False
    validation: int = 0
    channels: int = 1
    modality: str = ""
    body: BodyIntensities | None = None
    nonzero_share: float | None = None

    @property
    def has_geometry(self) -> bool:
        """Whether most scans say how large their voxels are."""
        return 2 * self.without_geometry < len(self.shapes)

    @property
    def median_spacing(self) -> np.ndarray:
        """Median of each axis, mm, ``(3,)``."""
        return np.median(np.array(self.spacings, dtype=float), axis=0)

    def resampled(self, spacing: tuple[float, ...] | None, image_size: tuple[int, ...] | None) -> np.ndarray:
        """Shape of each scan after resampling and resizing, in voxels, ``(N, 3)``.

        Args:
            spacing: mm of the first axes; None leaves the voxels as they are.
            image_size: voxels of the first axes, which follow upon resampling; None leaves them.
        """
        shapes = np.array(self.shapes, dtype=float)
        if spacing is not None:
            known = np.array(self.spacings, dtype=float)[:, : len(spacing)]
            shapes[:, : len(spacing)] *= known / np.array(spacing)
        if image_size is not None:
            shapes[:, : len(image_size)] = image_size
        return np.maximum(np.rint(shapes), 1)

    def to_json(self) -> dict[str, Any]:
        """The measures in JSON form."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Fingerprint:
        """The inverse of :meth:`to_json`."""
        body = content["body"]
        rows = {key: tuple(map(tuple, content[key])) for key in ("shapes", "spacings")}
        return cls(**{**content, **rows, "body": None if body is None else BodyIntensities(**body)})


@dataclass(frozen=True)
class Machine:
    """What a training runs on.

    Attributes:
        device: "cpu" or "cuda".
        memory_gb: memory of the device that a training step may take, in GB (1e9 bytes).
        half: whether it trains in mixed precision.
        scans_gb: memory of the machine for scans, in GB.
        disk_gb: space where the training writes, in GB.
    """

    device: str = "cpu"
    memory_gb: float = 8.0
    half: bool = False
    scans_gb: float = 8.0
    disk_gb: float = 100.0
