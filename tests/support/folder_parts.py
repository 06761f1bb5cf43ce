"""Folders of small volumes under names that users give, and the cases that are found in them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from vqseg_bundle.data import find_cases

VOXELS = np.zeros((4, 3, 2), np.uint8)
VOXELS[0] = 1
VOXELS[1] = 2
NOISE_SHAPE = (5, 4, 3)


def fill(root: Path, *names: str) -> None:
    """Write the same classes under every name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), path)


def save_noise(path: Path, seed: int = 0, affine: np.ndarray | None = None, classes: tuple[int, ...] = ()) -> str:
    """An image of noise, or a label of the classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = NOISE_SHAPE
    voxels = rng.choice(classes, shape).astype(np.uint8) if classes else rng.integers(0, 999, shape, np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine), path)
    return str(path)


def found(root: Path) -> list[tuple[str, ...]]:
    """Image, more channels, label, patient and list of every case."""
    return [(c.image, *c.more_channels, c.label, c.patient, c.split) for c in find_cases(root)]
