"""NIfTI headers with voxel sizes that nibabel would replace, and headers that end too soon."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support.nifti_parts import OBLIQUE, PLAIN, SHAPE, image_of

from vqseg_bundle.data import Cohort, DataError, examine_cohort, read_header, read_voxels

KINDS = {
    "little": {"header": nib.Nifti1Header(endianness="<")},
    "big": {"header": nib.Nifti1Header(endianness=">")},
    "two, little": {"kind": nib.Nifti2Image, "header": nib.Nifti2Header(endianness="<")},
    "two, big": {"kind": nib.Nifti2Image, "header": nib.Nifti2Header(endianness=">")},
}
NAMES = ["x.nii", "x.nii.gz", "x.hdr"]
UNUSABLE = [(0.7, 0.7, 0.0), (0.0, 0.0, 0.0), (0.7, 0.7, -3.0), (0.7, 0.7, np.nan), (np.inf, 0.7, 3.0)]


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
    if "vox_offset" not in fields:
        header["vox_offset"] = header.single_vox_offset if single else 0
    voxels = np.asarray(image.dataobj).astype(image.get_data_dtype()).tobytes("F")
    if not single:
        path.with_suffix(".img").write_bytes(voxels)
    block = header.binaryblock + (bytes(4) + voxels if single else b"")
    path.write_bytes(gzip.compress(block) if path.suffix == ".gz" else block)
    return str(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("qform", [0, 1])
def test_voxel_sizes_that_are_none_are_refused(
    tmp_path: Path, name: str, kind: str, qform: int, caplog: pytest.LogCaptureFixture
) -> None:
    image = image_of(**KINDS[kind], sform=0, qform=qform)
    for spacing in UNUSABLE:
        path = stored(tmp_path / name, image, pixdim=spacing)
        with pytest.raises(
            DataError, match=rf"{name}: expected positive, finite voxel spacing \(pixdim\), found "
        ) as got:
            read_header(path)
        shown = " x ".join(f"{side:g}" for side in spacing)
        assert str(got.value).endswith(f"found {shown}; correct the header, or export the volume again.")
        assert read_voxels(path).shape == SHAPE
    np.testing.assert_allclose(
        np.linalg.norm(read_header(stored(tmp_path / name, image)).affine[:3, :3], axis=0), (0.8, 0.9, 3.0), rtol=1e-5
    )
    assert [record for record in caplog.records if record.name.startswith("nibabel")] == []


def test_the_check_calls_them_invalid(tmp_path: Path) -> None:
    image = stored(tmp_path / "x.nii", image_of(sform=0), pixdim=(0.7, 0.7, 0))
    report = examine_cohort(
        Cohort("n", {0: "a", 1: "b"}, unlabeled=[{"image": image, "case": "x", "patient": "x"}]), 1, use_cache=False
    )
    (finding,) = [finding for finding in report.findings if image in finding.files]
    assert (finding.code, finding.found) == (
        "invalid_spacing",
        "expected positive, finite voxel spacing (pixdim), found 0.7 x 0.7 x 0",
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_they_do_not_matter_beside_an_sform(
    tmp_path: Path, name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    for fields in (*({"pixdim": spacing} for spacing in UNUSABLE), {"quatern_b": np.nan}, {"qoffset_x": np.inf}):
        header = read_header(stored(tmp_path / name, image_of(**KINDS[kind]), **fields))
        np.testing.assert_allclose(header.affine, OBLIQUE, rtol=1e-5)
        assert header.other_affine is None
        assert header.notes == ()
    assert [record for record in caplog.records if record.name.startswith("nibabel")] == []


@pytest.mark.parametrize(
    ("shape", "pixdim", "sides"),
    [
        ((7, 6, 1), (0.8, 0.9, 0), (0.8, 0.9, 1)),
        ((1, 6, 5), (0, 0.9, 3), (1, 0.9, 3)),
        ((7, 6), (0.8, 0.9, 0), (0.8, 0.9, 1)),
        ((7, 6, 1, 1), (0.8, 0.9, 0, 0), (0.8, 0.9, 1)),
        ((7, 6, 5, 2), (0.8, 0.9, 3, 0), (0.8, 0.9, 3)),
    ],
)
@pytest.mark.parametrize("qform", [0, 1])
def test_none_is_needed_across_a_single_slice_or_from_one_channel_to_the_next(
    tmp_path: Path, shape: tuple[int, ...], pixdim: tuple[float, ...], sides: tuple[float, ...], qform: int
) -> None:
    image = image_of(shape, PLAIN, sform=0, qform=qform)
    header = read_header(stored(tmp_path / "x.nii", image, pixdim=pixdim))
    np.testing.assert_allclose(np.linalg.norm(header.affine[:3, :3], axis=0), sides, rtol=1e-5)


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


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [0, 16, 348, -5])
def test_voxels_that_begin_within_the_header_are_refused(tmp_path: Path, name: str, kind: str, offset: int) -> None:
    path, least = stored(tmp_path / name, image_of(**KINDS[kind]), vox_offset=offset), 544 if "two" in kind else 352
    message = (
        rf"{name}: expected its voxels at byte {least} or later \(vox_offset\), found {offset}, which lies in the "
        rf"header; write {least} there if the voxels follow the header, or export the volume again\.$"
    )
    for read in (read_header, read_voxels):
        with pytest.raises(DataError, match=message):
            read(path)


def test_those_of_a_pair_begin_at_0_and_others_may_begin_later(tmp_path: Path) -> None:
    pair, later = stored(tmp_path / "x.hdr", image_of()), Path(stored(tmp_path / "y.nii", image_of(), vox_offset=368))
    later.write_bytes(later.read_bytes()[:352] + bytes(16) + later.read_bytes()[352:])
    for path in (pair, str(later)):
        assert read_voxels(path).ravel()[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_intensity_scale_without_its_intercept_is_named(tmp_path: Path, name: str, kind: str) -> None:
    path = stored(tmp_path / name, image_of(**KINDS[kind]), scl_slope=2, scl_inter=np.nan)
    message = rf"{name}: expected a finite scl_inter beside scl_slope 2, found nan; correct the header, or export the"
    for read in (read_header, read_voxels):
        with pytest.raises(DataError, match=message):
            read(path)
    for slope in (0, np.nan):  # which mean that there is no scale
        assert read_voxels(stored(tmp_path / name, image_of(**KINDS[kind]), scl_slope=slope)).shape == SHAPE


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dim", "found"), [((4, *SHAPE, 0), r"dim\[4\] = 0"), ((5, *SHAPE, 1, 0), r"dim\[5\] = 0")])
def test_a_further_axis_without_voxels_is_named(
    tmp_path: Path, name: str, kind: str, dim: tuple[int, ...], found: str
) -> None:
    path = stored(tmp_path / name, image_of(**KINDS[kind]), dim=(*dim, *(1,) * (8 - len(dim))))
    message = (
        rf"{name}: expected at least 1 along each axis, found {found} with dim\[0\] = {dim[0]} in its header; write"
    )
    with pytest.raises(DataError, match=message):
        read_header(path)
