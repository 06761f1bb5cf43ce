"""2D images (PNG, JPEG, TIFF, BMP) as volumes of one slice, by Pillow: rows, columns, 1 and, in colour, 3 channels.

They are upright: turned and mirrored as their EXIF orientation says, as viewers show them. They know no millimetres:
the affine is the identity, a pixel a unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import DataError
from .volume_header import VolumeHeader

__all__ = ["read_mask", "read_mask_values", "read_picture", "read_picture_header"]

_GREY = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L", "LA", "P")
_COLOR = ("RGB", "RGBA")
_LOSSY = (".jpg", ".jpeg")
_FIRST_TURNED = 5  # EXIF orientations from here on exchange rows and columns


def read_picture_header(path: str) -> VolumeHeader:
    """Read the size of the upright picture; an alpha channel is not counted.

    Raises:
        DataError: several pages, or colours of another kind than grey, RGB and RGBA.
        OSError: the file is broken.
    """
    with _opened(path) as image:
        _check_mode(path, image)
        channels = [3] if image.mode in _COLOR else []
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= _FIRST_TURNED
        width, height = ImageOps.exif_transpose(image).size if turned else image.size
    shape = (height, width, 1, *channels)
    return VolumeHeader(shape, np.eye(4))


def read_picture(path: str) -> np.ndarray:
    """Read the upright picture ``(H, W, 1)``, or ``(H, W, 1, 3)`` in colour, in the stored type.

    Raises:
        DataError: see :func:`read_picture_header`; an alpha channel that is not opaque; a palette of colours.
        OSError: the file is broken.
    """
    return _pixels(path, is_label=False)


def read_mask(path: str) -> tuple[np.ndarray, bool]:
    """Read class indices ``(H, W, 1)``; a palette's indices are the classes.

    Returns:
        The classes, and whether 255 was read as class 1: so it is in a mask of 0 and 255, as pictures often have it.

    Raises:
        DataError: see :func:`read_mask_values`.
        OSError: the file is broken.
    """
    pixels = read_mask_values(path)
    if pixels.max() == 255 and np.isin(pixels, (0, 255)).all():
        return (pixels > 0).astype(np.uint8), True
    return pixels, False


def read_mask_values(path: str) -> np.ndarray:
    """Read a mask ``(H, W, 1)`` as it is stored; of a palette, the indices.

    Raises:
        DataError: see :func:`read_picture_header`; a mask in colour, or one that JPEG has blurred; an alpha channel
            that is not opaque.
        OSError: the file is broken.
    """
    pixels = _pixels(path, is_label=True)
    if pixels.ndim > 3:
        raise DataError(
            f"{path}: expected a mask of class indices (0, 1, 2, ...), found a picture in colour; save one value a "
            "pixel, 0 for the background."
        )
    if Path(path).suffix.lower() in _LOSSY:
        raise DataError(f"{path}: expected a lossless mask, found JPEG, which blurs class indices; save it as PNG.")
    return pixels


def _pixels(path: str, is_label: bool) -> np.ndarray:
    with _opened(path) as image:
        pixels = np.expand_dims(np.asarray(_to_plain(path, image, is_label)), 2)
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    # not by its name: Pillow 13 would map an uncompressed TIFF into memory with the rows and columns of its turned size
    with Path(path).open("rb") as file, Image.open(file) as image:
        yield image


def _check_mode(path: str, image: Any) -> None:
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise DataError(
            f"{path}: expected one picture, found {pages} pages; save a volume as NIfTI, or each as a file."
        )
    if image.mode not in (*_GREY, *_COLOR):
        raise DataError(f"{path}: expected grey or RGB pixels, found Pillow's mode {image.mode}; convert the picture.")


def _to_plain(path: str, image: Any, is_label: bool) -> Any:
    """Upright, without alpha and, for an image, without palette."""
    _check_mode(path, image)
    image = ImageOps.exif_transpose(image)
    if image.mode in ("LA", "RGBA"):
        lowest = image.getchannel("A").getextrema()[0]
        if lowest < 255:
            raise DataError(
                f"{path}: expected an opaque picture, found an alpha channel down to {lowest}; save it without one."
            )
        return image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode == "P" and not is_label:
        colors = np.asarray(image.getpalette("RGB")).reshape(-1, 3)
        if (colors != colors[:, :1]).any():
            raise DataError(f"{path}: expected grey or RGB pixels, found a palette of colours; convert the picture.")
        return image.convert("L")
    return image
