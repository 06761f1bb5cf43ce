"""A cohort of three small cases, and what its check refuses."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from vqseg_bundle.data import Cohort, DataError, check_cohort

LABELS = {0: "background", 1: "organ"}
AFFINE = np.diag([1.5, 1.5, 6.0, 1.0])
SHAPE = (8, 7, 5)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)


def make_case(folder: Path, name: str, seed: int = 0, labeled: bool = True) -> dict[str, str]:
    rng = np.random.default_rng([seed, len(name), *name.encode()])
    case = {"image": save(folder / f"{name}.nii.gz", rng.integers(0, 99, SHAPE).astype(np.int16))}
    if labeled:
        case["label"] = save(folder / f"{name}_label.nii.gz", rng.integers(0, 2, SHAPE).astype(np.uint8))
    return {**case, "case": name, "patient": name}


def make_cohort(folder: Path) -> Cohort:
    return Cohort(
        name="n",
        labels=LABELS,
        training=[make_case(folder, "a")],
        unlabeled=[make_case(folder, "b", labeled=False)],
        validation=[make_case(folder, "c")],
        source="list.json",
    )


def refused(cohort: Cohort, message: str, **options: object) -> None:
    with pytest.raises(DataError, match=message):
        check_cohort(cohort, 1, progress=False, **options)


def patch_header(path: Path, offset: int, content: bytes) -> None:
    """Overwrite a part of an unpacked NIfTI file, such as what nibabel would not write."""
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(bytes(whole))
