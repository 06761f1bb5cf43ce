"""The fingerprint of a cohort, from the facts that the data check has gathered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vqseg_bundle import data
from vqseg_bundle.planning import BodyIntensities, Fingerprint

__all__ = ["measure_cohort"]

_LEARNT_FROM = ("training", "unlabeled")
_MAJORITY = 0.6
_AIR_BELOW_HU = -500.0
_CT = "CT"


def measure_cohort(
    cases: Sequence[data.CaseFacts], slice_axis: int | str, orientation: str | None, channels: int, sparse: bool = False
) -> Fingerprint:
    """The fingerprint of the cases to learn from, labelled and unlabelled, each image once.

    Args:
        cases: facts about all cases of a cohort without errors.
        slice_axis: see :func:`vqseg_bundle.data.choose_slice_axis`.
        orientation: to which the volumes are brought; None leaves them as stored.
        channels: of every image.
        sparse: whether voxels without a label take part as unlabelled.
    """
    learnt = list({case.image: case for case in cases if case.split in _LEARNT_FROM and case.image_header}.values())
    headers = [case.image_header.header for case in learnt if case.image_header]
    rows = [data.sliced_geometry(header, slice_axis, orientation) for header in headers]
    voxels = [case.image_voxels for case in learnt if case.image_voxels]
    bodies = np.array([facts.body for facts in voxels if facts.body])
    stated = [header.modality for header in headers if header.modality]
    airy = [facts for facts in voxels if facts.low <= _AIR_BELOW_HU]
    is_ct = stated.count(_CT) > len(headers) / 2 if stated else bool(airy) and len(airy) >= _MAJORITY * len(voxels)
    # one window and one mean for all channels would leave nothing of another modality beside CT
    is_ct = is_ct and channels == 1
    return Fingerprint(
        shapes=tuple(shape for shape, _ in rows),
        spacings=tuple(spacing for _, spacing in rows),
        slice_axis=slice_axis,
        without_geometry=sum(not data.has_geometry(header) for header in headers),
        labeled=sum(case.split == "training" for case in learnt),
        sparse=sparse,
        validation=sum(case.split == "validation" for case in cases),
        channels=channels,
        modality=_CT if is_ct else "",
        body=_join(bodies) if len(bodies) else None,
        nonzero_share=float(np.median([facts.nonzero_share for facts in voxels])) if voxels else None,
    )


def _join(bodies: np.ndarray) -> BodyIntensities:
    """One body of all scans: medians of the percentiles, and the moments of the voxels together."""
    low, high = np.median(bodies[:, :2], axis=0)
    mean = bodies[:, 2].mean()
    deviation = np.sqrt((bodies[:, 3] ** 2 + (bodies[:, 2] - mean) ** 2).mean())
    return BodyIntensities(float(low), float(high), float(mean), float(deviation))
