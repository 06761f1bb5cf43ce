"""NIfTI headers that end too soon."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support.nifti_parts import image_of

from vqseg_bundle.data import DataError, read_header

KINDS = {
    "little": {"header": nib.Nifti1Header(endianness="<")},
    "big": {"header": nib.Nifti1Header(endianness=">")},
    "two, little": {"kind": nib.Nifti2Image, "header": nib.Nifti2Header(endianness="<")},
    "two, big": {"kind": nib.Nifti2Image, "header": nib.Nifti2Header(endianness=">")},
}
NAMES = ["x.nii", "x.nii.gz", "x.hdr"]


def stored(path: Path, image: Any, **fields: Any) -> str:
    """Save under a name, and change fields of the header as no library would write them."""
    header = type(image.header)(image.header.binaryblock, image.header.endianness, check=False)
    for name, value in fields.items():
        if name == "pixdim":
            header["pixdim"][1 : 1 + len(value)] = value
        else:
            header[name] = value
    single = path.suffix != ".hdr"
    header["magic"] = header.single_magic if single else header.pair_magic
    header["vox_offset"] = header.single_vox_offset if single else 0
    voxels = np.asarray(image.dataobj).astype(image.get_data_dtype()).tobytes("F")
    if not single:
        path.with_suffix(".img").write_bytes(voxels)
    block = header.binaryblock + (bytes(4) + voxels if single else b"")
    path.write_bytes(gzip.compress(block) if path.suffix == ".gz" else block)
    return str(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ends_within_its_header_is_truncated(tmp_path: Path, name: str, kind: str) -> None:
    path = Path(stored(tmp_path / name, image_of(**KINDS[kind])))
    packed, size = name.endswith(".gz"), 540 if "two" in kind else 348
    content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    for length in (4, 200, size - 1):
        path.write_bytes(gzip.compress(content[:length]) if packed else content[:length])
        message = rf"{name}: truncated or unreadable \({size} bytes of header expected, {length} found\); copy it again"
        with pytest.raises(DataError, match=message):
            read_header(str(path))


@pytest.mark.parametrize("length", [0, 1, 3])
def test_so_is_one_whose_content_tells_nothing(tmp_path: Path, length: int) -> None:
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(bytes(length)))
    message = rf"x\.nii\.gz: truncated or unreadable \(348 bytes of header expected, {length} found\); copy it again"
    with pytest.raises(DataError, match=message):
        read_header(str(tmp_path / "x.nii.gz"))
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(bytes(4)))
    with pytest.raises(DataError, match=r"x\.nii\.gz: expected a NIfTI file, found other content; convert it"):
        read_header(str(tmp_path / "x.nii.gz"))
