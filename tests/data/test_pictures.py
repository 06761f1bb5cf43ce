"""Pictures as images and masks: upright, in colour, with alpha or a palette; what is none is named."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data_parts import load_channels_first, write_picture

from vqseg_bundle.data import DataError, read_classes, read_header, read_voxels


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.npy", "a.jpg"])
def test_a_grey_picture_is_a_volume_of_one_slice(tmp_path: Path, name: str):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9)).astype(np.uint8)
    path = write_picture(tmp_path / name, pixels)
    assert read_header(str(path)).shape == (6, 9, 1)
    np.testing.assert_array_equal(read_header(str(path)).affine, np.eye(4))
    found = read_voxels(str(path))[:, :, 0]
    np.testing.assert_array_equal(found, np.asarray(Image.open(path)) if name == "a.jpg" else pixels)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy"])
def test_a_colour_picture_has_three_channels(tmp_path: Path, name: str):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    path = write_picture(tmp_path / name, pixels)
    assert read_header(str(path)).shape == (6, 9, 1, 3)
    np.testing.assert_array_equal(load_channels_first(path)[..., 0].numpy(), np.moveaxis(pixels, -1, 0))


#: by EXIF orientation (CIPA DC-008, tag 274): what stored rows and columns are when the picture is held upright
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}], ids=["plain", "compressed"])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_and_its_mask_are_read_upright(tmp_path: Path, orientation: int, name: str, options: dict[str, str]):
    stored = np.arange(24, dtype=np.uint8).reshape(6, 4)
    exif = Image.Exif()
    exif[274] = orientation
    path = str(write_picture(tmp_path / name, stored, exif=exif, **(options if name == "a.tif" else {})))
    expected = UPRIGHT[orientation](stored)
    assert read_header(path).shape == (*expected.shape, 1)
    np.testing.assert_array_equal(read_voxels(path)[..., 0], expected)
    np.testing.assert_array_equal(read_classes(path)[0][..., 0], expected)


def test_a_photograph_is_read_upright_in_colour(tmp_path: Path):
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[:, 8:, 0] = 255
    exif = Image.Exif()
    exif[274] = 6  # held upright it is turned clockwise: what was right is below
    path = str(write_picture(tmp_path / "a.jpg", stored, exif=exif, quality=100, subsampling=0))
    assert read_header(path).shape == (16, 8, 1, 3)
    red = read_voxels(path)[:, :, 0, 0]
    assert (red[:8] < 10).all()
    assert (red[8:] > 245).all()


def test_sixteen_bits_stay(tmp_path: Path):
    pixels = np.array([[0, 300], [65535, 256]], np.uint16)
    np.testing.assert_array_equal(read_voxels(str(write_picture(tmp_path / "a.png", pixels)))[..., 0], pixels)


def test_colours_of_16_bits_are_refused(tmp_path: Path):
    """Pillow would keep 8 of them: of 12-bit data, 16 values."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + np.full((3, 3), 4095, ">u2").tobytes() for _ in range(2))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match=r"a\.png: expected 8 bits a channel in colour, found 16"):
        read_voxels(str(tmp_path / "a.png"))


def test_inverted_grey_values_of_16_bits_are_refused(tmp_path: Path):
    pixels = np.array([[0, 300], [65535, 256]], np.uint16)
    path = write_picture(tmp_path / "a.tif", pixels)
    np.testing.assert_array_equal(read_voxels(str(path))[..., 0], pixels)
    content = path.read_bytes()
    entry = struct.pack("<HHI", 262, 3, 1)
    assert content.count(entry) == 1
    place = content.index(entry) + len(entry)
    path.write_bytes(content[:place] + struct.pack("<H", 0) + content[place + 2 :])
    with pytest.raises(DataError, match=r"a\.tif: expected bright pixels to have high values, found WhiteIsZero"):
        read_voxels(str(path))


def test_alpha_is_dropped_where_it_is_opaque(tmp_path: Path):
    pixels = np.full((4, 5, 4), 255, np.uint8)
    pixels[..., :3] = 7
    path = str(write_picture(tmp_path / "a.png", pixels))
    assert read_header(path).channels == 3
    assert (read_voxels(path) == 7).all()
    pixels[1, 2, 3] = 9
    write_picture(tmp_path / "a.png", pixels)
    with pytest.raises(DataError, match=r"a.png: expected an opaque picture, found an alpha channel down to 9"):
        read_voxels(path)


def test_a_mask_of_0_and_255_is_read_as_0_and_1(tmp_path: Path):
    pixels = np.zeros((4, 5), np.uint8)
    pixels[1:3] = 255
    path = str(write_picture(tmp_path / "a.png", pixels))
    classes, mapped = read_classes(path)
    assert mapped
    np.testing.assert_array_equal(classes[..., 0], pixels // 255)
    np.testing.assert_array_equal(read_voxels(path, is_label=True), classes)
    np.testing.assert_array_equal(read_voxels(path)[..., 0], pixels)
    pixels[0] = 2
    write_picture(tmp_path / "a.png", pixels)
    classes, mapped = read_classes(path)
    assert (classes.max(), mapped) == (255, False)


def test_the_indices_of_a_palette_are_classes_but_no_intensities(tmp_path: Path):
    indices = np.random.default_rng(0).integers(0, 3, (4, 5)).astype(np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    np.testing.assert_array_equal(read_voxels(path, is_label=True)[..., 0], indices)
    with pytest.raises(DataError, match=r"a.png: expected grey or RGB pixels, found a palette of colours"):
        read_voxels(path)


def test_a_mask_whose_grey_palette_falls_is_refused(tmp_path: Path):
    """Pillow gives white, the structure, index 0."""
    inside = np.zeros((6, 5), np.uint8)
    inside[2:4, 1:3] = 255
    for palette, name in ((Image.Palette.ADAPTIVE, "fallen.png"), (Image.Palette.WEB, "web.png")):
        Image.fromarray(inside).convert("RGB").convert("P", palette=palette, colors=2).save(tmp_path / name)
    with pytest.raises(DataError, match=r"fallen\.png: expected a mask whose lowest value is its darkest grey, found"):
        read_voxels(str(tmp_path / "fallen.png"), is_label=True)
    np.testing.assert_array_equal(read_voxels(str(tmp_path / "fallen.png"))[..., 0], inside)
    assert np.unique(read_voxels(str(tmp_path / "web.png"), is_label=True)).size == 2


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
@pytest.mark.parametrize(
    "greys", [(0, 255, 128), (0, 128, 255), (0, 255, 128, 64)], ids=["unordered", "rising", "four values"]
)
def test_a_mask_whose_darkest_grey_is_its_lowest_value_is_read(tmp_path: Path, name: str, greys: tuple[int, ...]):
    indices = np.random.default_rng(0).integers(0, len(greys), (4, 5)).astype(np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(np.repeat(greys, 3).tolist())
    picture.save(tmp_path / name)
    np.testing.assert_array_equal(read_voxels(str(tmp_path / name), is_label=True)[..., 0], indices)


@pytest.mark.parametrize(("greys", "beyond"), [([0, 128, 255], 3), ([0, 64, 128, 192, 255], 7)])
@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_a_mask_may_have_values_that_its_palette_lacks(tmp_path: Path, name: str, greys: list[int], beyond: int):
    indices = np.array([[0, 1, 2, beyond]], np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(np.repeat(greys, 3).tolist())
    picture.save(tmp_path / name)
    np.testing.assert_array_equal(read_voxels(str(tmp_path / name), is_label=True)[..., 0], indices)


def write_tiff(path: Path, values: np.ndarray, kind: int | None) -> str:
    """One row of two values; ``kind`` is the tag SampleFormat, 1 unsigned and 2 signed, None for none."""
    bits = 8 * values.itemsize
    tags = [(256, 2), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, values.nbytes)]
    tags += [(339, kind)] if kind else []
    data = values.tobytes().ljust(8, b"\0")
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag == 273 else 3, 1, value) for tag, value in tags)
    place = 8 + len(data)
    content = b"II*\0" + struct.pack("<I", place) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (np.array([[-1, 3]], np.int8), 2, "expected unsigned bytes, found signed ones"),
        (np.array([[2**31 + 5, 3]], np.uint32), 1, r"expected values below 2\*\*31, found higher ones"),
        (np.array([[3_000_000_000, 3]], np.uint32), None, r"expected values below 2\*\*31, found higher ones"),
    ],
)
def test_numbers_that_pillow_would_wrap_are_refused(tmp_path: Path, values: np.ndarray, kind: int | None, message: str):
    path = write_tiff(tmp_path / "a.tif", values, kind)
    with pytest.raises(DataError, match=rf"a\.tif: {message}"):
        read_voxels(path)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([[-5, 3]], np.int32), 2),
        (np.array([[2**31 - 1, 3]], np.uint32), None),
        (np.array([[-5, 3]], np.int16), 2),
        (np.array([[65535, 3]], np.uint16), 1),
        (np.array([[65535, 3]], np.uint16), None),
    ],
    ids=["signed 32", "untagged 32", "signed 16", "unsigned 16", "untagged 16"],
)
def test_whole_numbers_that_pillow_reads_keep_their_sign(tmp_path: Path, values: np.ndarray, kind: int | None):
    np.testing.assert_array_equal(read_voxels(write_tiff(tmp_path / "a.tif", values, kind))[..., 0], values)


@pytest.mark.parametrize(
    ("name", "channels", "message"),
    [
        ("a.png", 3, r"a.png: expected a mask of class indices .* found a picture in colour"),
        ("a.jpg", 1, r"a.jpg: expected a lossless mask, found JPEG"),
    ],
)
def test_masks_in_colour_or_jpeg_are_refused(tmp_path: Path, name: str, channels: int, message: str):
    pixels = np.zeros((8, 8, 3) if channels == 3 else (8, 8), np.uint8)
    with pytest.raises(DataError, match=message):
        read_voxels(str(write_picture(tmp_path / name, pixels)), is_label=True)


@pytest.mark.parametrize(
    ("name", "kind", "options", "found"),
    [
        ("a.png", "JPEG", {}, "JPEG"),
        ("a.png", "MPO", {}, "(JPEG|MPO)"),
        ("a.png", "JPEG2000", {}, "JPEG2000"),
        ("a.png", "WEBP", {}, "WEBP"),
        ("a.tif", "TIFF", {"compression": "jpeg"}, "JPEG"),
        ("a.png", "BMP", {}, ""),
        ("a.jpg", "PNG", {}, ""),
        ("a.tif", "TIFF", {"compression": "tiff_lzw"}, ""),
    ],
)
def test_lossy_masks_are_refused_by_their_content(
    tmp_path: Path, name: str, kind: str, options: dict[str, str], found: str
):
    path = tmp_path / name
    mask = np.pad(np.ones((5, 5), np.uint8), 6)
    try:
        Image.fromarray(mask).save(path, format=kind, **options)
    except (KeyError, OSError) as error:
        pytest.skip(f"this Pillow writes no {kind}: {error}")
    if found:
        with pytest.raises(DataError, match=rf"{name}: expected a lossless mask, found {found}, which blurs"):
            read_voxels(str(path), is_label=True)
        assert read_voxels(str(path)).shape[:3] == (17, 17, 1)
    else:
        np.testing.assert_array_equal(read_voxels(str(path), is_label=True)[..., 0], mask)


def test_lossless_webp_is_no_lossy_mask(tmp_path: Path):
    Image.fromarray(np.ones((5, 5), np.uint8)).save(tmp_path / "a.png", format="WEBP", lossless=True)
    with pytest.raises(DataError, match=r"expected a mask of class indices .* found a picture in colour"):
        read_voxels(str(tmp_path / "a.png"), is_label=True)


def test_a_picture_of_several_pages_is_refused(tmp_path: Path):
    pages = [Image.fromarray(np.zeros((4, 4), np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"a.tif: expected one picture, found 3 pages"):
        read_header(str(tmp_path / "a.tif"))
