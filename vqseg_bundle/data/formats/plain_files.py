"""Files without physical units, NPY arrays and pictures: their affine is the identity.

- NPY: ``(H, W)`` is an image of one slice, ``(H, W, 3)`` one in colour, ``(X, Y, Z)`` or ``(X, Y, Z, C)`` a volume.
  Pickled objects are not read.
- PNG, JPEG, TIFF and BMP, read with Pillow, are volumes of one slice: rows, columns, 1 and, in colour, 3 channels. They
  are rotated and mirrored according to their EXIF orientation, like in viewers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import DataError
from .file_format import FileFormat, VolumeHeader

__all__ = ["ARRAY", "PICTURE"]
_GREY = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L", "LA", "P")
_COLOR = ("RGB", "RGBA")
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")  # Pillow's names; of JPEG 2000 it does not say whether it is
_LOSSY_TIFF = {"jpeg": "JPEG", "tiff_jpeg": "JPEG", "webp": "WEBP"}
_START = 4096  # bytes of a WebP file, among which it says how it is compressed
_FIRST_TURNED = 5  # EXIF orientations from here on swap rows and columns
_PHOTOMETRIC, _SAMPLE_FORMAT, _SIGNED = 262, 339, 2  # TIFF's tags, and a value of the second


def _read_array_header(path: str) -> VolumeHeader:
    """Shape without values; DataError if these are not real numbers."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        found = getattr(array, "dtype", "something else")
        raise DataError(
            f"{path}: expected one array of real numbers, found {found}; save one, of complex numbers the magnitude."
        )
    return VolumeHeader(_volume_shape(array.shape), np.eye(4))


def _read_array(path: str) -> np.ndarray:
    """Values in their stored type, in a volume's shape."""
    # not by NumpyReader, which in older versions of MONAI ran the code in pickles
    values = np.load(path, allow_pickle=False)
    return values.reshape(_volume_shape(values.shape))


def _volume_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 2:
        return (*shape, 1)
    if len(shape) == 3 and shape[2] == 3:
        return (*shape[:2], 1, 3)
    return shape


def _read_picture_header(path: str) -> VolumeHeader:
    """Size of the upright picture, alpha not counted; DataError: several pages, or colours other than grey and RGB."""
    with _opened(path) as image:
        _check_mode(path, image)
        channels = [3] if image.mode in _COLOR else []
        colors = tuple("#{:02x}{:02x}{:02x}".format(*color) for color in _palette(image))
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= _FIRST_TURNED
        width, height = ImageOps.exif_transpose(image).size if turned else image.size
    shape = (height, width, 1, *channels)
    return VolumeHeader(shape, np.eye(4), colors=colors)


def _read_picture(path: str) -> np.ndarray:
    """Upright picture ``(H, W, 1)``, or ``(H, W, 1, 3)`` in colour; DataError also for alpha that is not opaque."""
    return _pixels(path, is_label=False)


def _read_mask(path: str) -> np.ndarray:
    """Upright mask ``(H, W, 1)`` as stored, a palette's indices; DataError also for colour or JPEG by content."""
    pixels = _pixels(path, is_label=True)
    if pixels.ndim > 3:
        raise DataError(
            f"{path}: expected a mask of class indices (0, 1, 2, ...), found a picture in colour; save one value a "
            "pixel, 0 for the background."
        )
    return pixels


def _refuse_lossy(path: str, image: Any) -> None:
    """Refuse a mask by its content, since a JPEG may be called .png, and a TIFF may hold one."""
    found = image.format
    if found == "TIFF":
        found = _LOSSY_TIFF.get(image.info.get("compression"))
    elif found == "WEBP" and b"VP8L" in _start(path):
        return
    if found in _LOSSY:
        raise DataError(f"{path}: expected a lossless mask, found {found}, which blurs class indices; save it as PNG.")


def _start(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(_START)


def _pixels(path: str, is_label: bool) -> np.ndarray:
    with _opened(path) as image:
        if is_label:
            _refuse_lossy(path, image)
        pixels = np.expand_dims(np.asarray(_to_plain(path, image, is_label)), 2)
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    # not by its name: Pillow 13 would map an uncompressed TIFF into memory with the size of the rotated picture
    with Path(path).open("rb") as file, Image.open(file) as image:
        yield image


def _palette(image: Any) -> np.ndarray:
    """Colours by stored value, ``(values, 3)``; of a picture without palette none."""
    return np.asarray(image.getpalette("RGB") or [], int).reshape(-1, 3)


def _check_mode(path: str, image: Any) -> None:
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise DataError(
            f"{path}: expected one picture, found {pages} pages; save a volume as NIfTI, or each as a file."
        )
    if image.mode not in (*_GREY, *_COLOR):
        raise DataError(f"{path}: expected grey or RGB pixels, found Pillow's mode {image.mode}; convert the picture.")


def _check_depth(path: str, image: Any) -> None:
    """Refuse what Pillow would cut to 8 bits, not invert, or take for numbers of another sign."""
    decoded = " ".join(str(tile) for tile in image.tile)
    if image.mode in ("L", "LA", "RGB", "RGBA") and ";16" in decoded:
        raise DataError(
            f"{path}: expected 8 bits a channel in colour, found 16; save grey values of 16 bits, or NIfTI."
        )
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I") and tags.get(_PHOTOMETRIC) == 0:
        raise DataError(f"{path}: expected bright pixels to have high values, found WhiteIsZero; save it inverted.")
    if image.mode == "L" and _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        raise DataError(f"{path}: expected unsigned bytes, found signed ones, which would wrap; save 16 bits.")
    # a TIFF without the tag is unsigned by its specification; PNG, whose 16 bits are mode "I", too, has no tags
    unsigned = image.mode == "I" and bool(tags) and _SIGNED not in tags.get(_SAMPLE_FORMAT, (1,))
    if unsigned and image.getextrema()[0] < 0:
        raise DataError(f"{path}: expected values below 2**31, found higher ones, which would wrap; save floats.")


def _to_plain(path: str, image: Any, is_label: bool) -> Any:
    """The upright picture, without alpha and, for an image, without palette."""
    _check_mode(path, image)
    _check_depth(path, image)
    image = ImageOps.exif_transpose(image)
    if image.mode in ("LA", "RGBA"):
        lowest = image.getchannel("A").getextrema()[0]
        if lowest < 255:
            raise DataError(
                f"{path}: expected an opaque picture, found an alpha channel down to {lowest}; save it without one."
            )
        return image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode == "P" and not is_label:
        colors = _palette(image)
        if (colors != colors[:, :1]).any():
            raise DataError(f"{path}: expected grey or RGB pixels, found a palette of colours; convert the picture.")
        return image.convert("L")
    if image.mode == "P":
        _check_grey_palette(path, image)
    return image


def _check_grey_palette(path: str, image: Any) -> None:
    """Refuse a mask whose lowest value is a brighter grey than another: white would become the background.

    Pillow gives white index 0 where it is the most frequent. The order of the other greys means nothing.
    """
    palette, used = _palette(image), np.unique(np.asarray(image))
    greys = palette[used[used < len(palette)]]  # a file may have values that its palette has no colour for
    if len(greys) and (greys == greys[:, :1]).all() and greys[0, 0] > greys[:, 0].min():
        raise DataError(
            f"{path}: expected a mask whose lowest value is its darkest grey, found a palette in which it is brighter "
            'than another, so that white may be the background; save it in grey (Pillow\'s mode "L").'
        )


ARRAY = FileFormat("array", "NPY", (".npy",), _read_array_header, _read_array, flat=True)
PICTURE = FileFormat(
    kind="picture",
    title="PNG, JPEG, TIFF, BMP",
    suffixes=(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
    read_header=_read_picture_header,
    read_voxels=_read_picture,
    read_label=_read_mask,
    flat=True,
    masks_of_255=True,
)
