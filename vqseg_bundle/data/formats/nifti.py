"""NIfTI volumes, read with nibabel; an image of two axes becomes a volume of one slice.

The content decides, not the name, whether a file is compressed, NIfTI-1 or NIfTI-2, and one of a pair of ``.hdr`` and
``.img``. Affines are converted to mm; if a file has two, the sform is used, as in nibabel. Voxel sizes that nibabel
would replace are refused where they matter.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.analyze import AnalyzeHeader
from nibabel.batteryrunners import Report
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError

from ..errors import DataError
from .file_format import FileFormat, VolumeHeader, corner_distance

__all__ = ["NIFTI", "is_packed", "open_nifti", "read_nifti", "read_nifti_header", "scale_to_mm"]

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_SIZE_BYTES = 4  # the last bytes of a gzip file: its uncompressed size, modulo 2 ** 32
_MAGIC_PLACES = {348: slice(344, 348), 540: slice(4, 8)}
_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
_SINGLE, _PAIR = (b"n+1\0", b"n+2\0"), (b"ni1\0", b"ni2\0")
_MM = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}  # none, metre, millimetre, micrometre
_DIFFERENT = 0.1  # of a voxel's smallest side
_OTHER_SPACING = 0.01


class _QuietHeader:
    """Replaces unusable voxel sizes as nibabel does, but not with a note on the terminal that names no file."""

    @staticmethod
    def _chk_pixdims(hdr: Any, fix: bool = False) -> tuple[Any, Report]:
        return AnalyzeHeader._chk_pixdims(hdr, fix)[0], Report()


def _quiet(image: Any) -> Any:
    """A class of images, with headers of :class:`_QuietHeader`."""
    header = image.header_class
    return type(image.__name__, (image,), {"header_class": type(header.__name__, (_QuietHeader, header), {})})


_HEADER_SIZES = {
    348: (_quiet(nib.Nifti1Image), _quiet(nib.Nifti1Pair)),
    540: (_quiet(nib.Nifti2Image), _quiet(nib.Nifti2Pair)),
}


def read_nifti_header(path: str) -> VolumeHeader:
    """Geometry of a complete file; DataError for other content, OSError or nibabel's errors for a damaged file."""
    image = open_nifti(path)
    _check_axes(path, image)
    _check_length(path, image)
    if image.get_data_dtype().kind not in "biuf":
        raise DataError(
            f"{path}: expected real numbers as voxels, found type {image.get_data_dtype()}; save the magnitude of "
            "complex numbers, and colours as channels of a fourth axis."
        )
    shape, factor = _volume_shape(image), scale_to_mm(image)
    stored = _stored_spacing(path, image)
    usable = _is_usable(stored, shape)
    if not usable and int(image.header["sform_code"]) <= 0:
        raise DataError(
            f"{path}: expected positive, finite voxel spacing (pixdim), found "
            f"{' x '.join(f'{side:.4g}' for side in stored)}; correct the header, or export the volume again."
        )
    affine = _in_mm(image.affine, factor)
    other = _other_affine(image) if usable else None
    if other is not None:
        other = _in_mm(other, factor)
    notes = _geometry_notes(image, shape, affine, other) + _unit_notes(image)
    if usable and other is None:
        notes += _spacing_notes(stored * factor, shape, affine)
    return VolumeHeader(shape, affine, other, notes)


def read_nifti(path: str) -> np.ndarray:
    """Voxels in their stored type, or as float32 if the header has an intensity scale; errors as for the header."""
    image = open_nifti(path)
    voxels = np.asanyarray(image.dataobj).reshape(_volume_shape(image))
    scaled = (float(image.dataobj.slope), float(image.dataobj.inter)) != (1.0, 0.0)
    return voxels.astype(np.float32) if scaled else voxels


def open_nifti(path: str) -> Any:
    """nibabel's image, voxels unread; DataError for other content, OSError or nibabel's errors for a damaged file."""
    header_file, image_file = _pair_of(path)
    size, magic = _identify(header_file)
    if size is None or magic not in (_SINGLE if header_file == image_file else _PAIR):
        analyze = size == 348 and magic not in (*_SINGLE, *_PAIR)
        found = "an Analyze file, which does not say where left is" if analyze else "other content"
        raise DataError(f"{path}: expected a NIfTI file, found {found}; convert it.")
    single, pair = _HEADER_SIZES[size]
    stored = _stored_header(header_file, single.header_class)
    _check_scale(path, stored)
    if header_file == image_file:
        _check_offset(path, stored)
        return single.from_file_map({"image": _holder(image_file)})
    if not image_file.is_file():
        raise DataError(f"{path}: expected its voxels in {image_file.name} beside it, found none; copy both files.")
    return pair.from_file_map({"header": _holder(header_file), "image": _holder(image_file)})


def scale_to_mm(image: Any) -> float:
    """Millimetres per unit of length in the file; without a unit, or with one that NIfTI does not know, 1."""
    return _MM.get(_unit(image), 1.0)


def _unit(image: Any) -> int:
    """The code of the unit of length; nibabel's own way ends in a KeyError for an unknown one."""
    return int(image.header["xyzt_units"]) & 7


def _pair_of(path: str) -> tuple[Path, Path]:
    """The files of header and voxels: one file, or a pair of which either may be named."""
    place = Path(path)
    packed = ".gz" if path.lower().endswith(".gz") else ""
    stem = path[: len(path) - len(packed)]
    if not stem.lower().endswith((".hdr", ".img")):
        return place, place
    upper = stem[-3:].isupper()
    names = [stem[:-3] + (ending.upper() if upper else ending) + path[len(stem) :] for ending in ("hdr", "img")]
    return Path(names[0]), Path(names[1])


def _identify(path: Path) -> tuple[int | None, bytes]:
    """The header's stated size and its magic word; None if neither byte order makes sense.

    EOFError: the file ends within the header.
    """
    start = _start(path)
    sizes = [size for order in _ORDERS if (size := int.from_bytes(start[:4], order)) in _HEADER_SIZES]
    needed = sizes[0] if sizes else min(_HEADER_SIZES)
    if len(start) < (needed if sizes else 4):
        raise EOFError(f"{needed} bytes of header expected, {len(start)} found")
    return (needed, start[_MAGIC_PLACES[needed]]) if sizes else (None, b"")


def _start(path: Path) -> bytes:
    """As many unpacked bytes as the longer header has."""
    with _open(path) as file:
        return file.read(max(_HEADER_SIZES))


def _stored_spacing(path: str, image: Any) -> np.ndarray:
    """The sides of a voxel as the file has them, before nibabel replaces those that are zero or negative."""
    return _stored_header(_pair_of(path)[0], type(image.header))["pixdim"][1:4]


def _stored_header(path: Path, kind: Any) -> Any:
    """A whole header as the file has it, without nibabel's corrections."""
    return kind(_start(path)[: kind.template_dtype.itemsize], check=False)


def _check_scale(path: str, header: Any) -> None:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isfinite(slope) and slope != 0 and not np.isfinite(intercept):
        raise DataError(
            f"{path}: expected a finite scl_inter beside scl_slope {slope:g}, found {intercept:g}; correct the header, "
            "or export the volume again."
        )


def _check_offset(path: str, header: Any) -> None:
    """Refuse a single file whose voxels would begin within its header.

    nibabel takes 0 as it is, and ITK goes to the header's end, four bytes too early; both say nothing.
    """
    least, found = header.single_vox_offset, float(header["vox_offset"])
    if not found >= least:  # or NaN
        raise DataError(
            f"{path}: expected its voxels at byte {least} or later (vox_offset), found {found:g}, which lies in the "
            f"header; write {least} there if the voxels follow the header, or export the volume again."
        )


def _is_usable(spacing: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether a voxel's sides are positive and finite; across a single slice, nibabel's 1 mm are as good as any."""
    many = [side for side, size in zip(spacing, shape[:3], strict=False) if size > 1]
    return bool(np.isfinite(many).all() and np.all(np.array(many) > 0))


def _holder(path: Path) -> FileHolder:
    """What nibabel reads; a file whose name is wrong about its compression is passed opened."""
    named_packed = path.name.lower().endswith(".gz")
    return FileHolder(filename=str(path)) if named_packed == is_packed(path) else FileHolder(fileobj=_open(path))


def _open(path: Path) -> Any:
    return gzip.open(path) if is_packed(path) else path.open("rb")


def is_packed(path: Path) -> bool:
    """Whether a file is a gzip file by its content."""
    with path.open("rb") as file:
        return file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


def _volume_shape(image: Any) -> tuple[int, ...]:
    """``(X, Y, Z)`` or ``(X, Y, Z, C)``; later axes of length 1 are ignored, and two axes are one slice."""
    shape = tuple(int(size) for size in image.shape)
    return (*shape, 1) if len(shape) == 2 else (*shape[:3], *(size for size in shape[3:] if size > 1))


def _in_mm(affine: np.ndarray, factor: float) -> np.ndarray:
    return np.diag([factor, factor, factor, 1.0]) @ np.asarray(affine, dtype=np.float64)


def _other_affine(image: Any) -> np.ndarray | None:
    """The qform's affine if the sform is used; None if the file has at most one affine, or an invalid qform."""
    header = image.header
    if int(header["sform_code"]) <= 0 or int(header["qform_code"]) <= 0:
        return None
    try:
        other = header.get_qform()
    except (HeaderDataError, ValueError):
        return None
    return other if np.isfinite(other).all() else None


def _unit_notes(image: Any) -> tuple[str, ...]:
    return () if _unit(image) in _MM else (f"has an unknown unit of length, code {_unit(image)}; mm are assumed",)


def _geometry_notes(
    image: Any, shape: tuple[int, ...], affine: np.ndarray, other: np.ndarray | None
) -> tuple[str, ...]:
    if int(image.header["sform_code"]) <= 0 and int(image.header["qform_code"]) <= 0:
        return (
            "has no geometry (codes of qform and sform are 0); its axes are taken as nibabel takes them, L, A and S",
        )
    if other is None:
        return ()
    apart = corner_distance(affine, other, shape)
    if apart <= _DIFFERENT * np.linalg.norm(affine[:3, :3], axis=0).min():
        return ()
    return (f"has a qform that lies up to {apart:.4g} mm from its sform; the sform is used",)


def _spacing_notes(stated: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> tuple[str, ...]:
    """What pixdim, in mm, says else than a lone affine; a qform has pixdim's spacing, and a note of its own."""
    used, many = np.linalg.norm(affine[:3, :3], axis=0), np.array(shape[:3]) > 1
    if np.all(np.abs(stated - used)[many] <= _OTHER_SPACING * used[many]):
        return ()
    pixdim, sform = (" x ".join(f"{side:.4g}" for side in sides) for sides in (stated, used))
    return (f"has voxels of {pixdim} mm by its pixdim, which ITK takes, and of {sform} mm by its sform, which is used",)


def _check_axes(path: str, image: Any) -> None:
    """Refuse a further axis without voxels; of the first three, every format is refused."""
    empty = [f"dim[{axis}] = {size}" for axis, size in enumerate(image.shape, 1) if axis > 3 and size < 1]
    if empty:
        raise DataError(
            f"{path}: expected at least 1 along each axis, found {', '.join(empty)} with dim[0] = {image.ndim} in its "
            "header; write 1 there if it is one volume, or export it again."
        )


def _check_length(path: str, image: Any) -> None:
    """Raise EOFError if the file is shorter than its header says."""
    file = _pair_of(path)[1]
    needed = int(image.dataobj.offset) + int(np.prod(image.shape, dtype=np.int64)) * image.get_data_dtype().itemsize
    found = _unpacked_size(file, needed) if is_packed(file) else file.stat().st_size
    if found < needed:
        raise EOFError(f"{needed} bytes expected, {found} found")


def _unpacked_size(path: Path, expected: int) -> int:
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, _GZIP_SIZE_BYTES), 2)
        if int.from_bytes(file.read(), "little") == expected % 2**32:
            return expected
    # A sound file compressed in several parts has another number there, so only decompression tells.
    with gzip.open(path) as packed:
        return sum(len(block) for block in iter(lambda: packed.read(2**24), b""))


NIFTI = FileFormat(
    kind="nifti",
    title="NIfTI",
    suffixes=(".nii", ".nii.gz", ".hdr", ".hdr.gz"),  # the last two with .img beside them
    read_header=read_nifti_header,
    read_voxels=read_nifti,
    source_files=lambda path: list(dict.fromkeys(map(str, _pair_of(path)))),
    detached=(".hdr", ".hdr.gz"),
)
