"""NIfTI images with headers of every kind, of voxels that count up."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.eulerangles import euler2mat

SHAPE = (7, 6, 5)
PLAIN = np.diag([0.8, 0.9, 3.0, 1.0])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = euler2mat(0.2, 0.3, -0.25) @ PLAIN[:3, :3]
OBLIQUE[:3, 3] = [12.3, -45.6, 78.9]
SHIFTED = PLAIN.copy()
SHIFTED[:3, 3] = [10.0, -5.0, 3.0]


def image_of(
    shape: tuple[int, ...] = SHAPE,
    affine: np.ndarray = OBLIQUE,
    sform: int = 2,
    qform: int = 1,
    qform_affine: np.ndarray | None = None,
    kind: Any = nib.Nifti1Image,
    unit: str = "unknown",
    header: Any = None,
) -> Any:
    """Voxels that count up; a distinct value tells each from the others."""
    image = kind(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine, header)
    image.set_sform(affine, sform)
    image.set_qform(affine if qform_affine is None else qform_affine, qform)
    image.header.set_xyzt_units(unit)
    return image


def write(path: Path, image: Any) -> Path:
    """Save under any name: nibabel refuses some."""
    plain = path.with_name("plain.nii")
    nib.save(image, plain)
    content = plain.read_bytes()
    plain.unlink()
    path.write_bytes(gzip.compress(content) if path.name.lower().endswith(".gz") else content)
    return path
