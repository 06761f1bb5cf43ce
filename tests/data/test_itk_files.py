"""NRRD and MetaImage files whose voxels are elsewhere, listed, missing, cut or damaged."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import itk
import numpy as np
import pytest
from support.data_parts import hounsfield

from vqseg_bundle.data import DataError, check_cases, read_header, read_voxels

SHAPE = (4, 3, 5)
VOXELS = hounsfield(SHAPE)
RAW = VOXELS.tobytes("F")
PACKED = zlib.compress(RAW)
META = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 5\nElementType = MET_SHORT\nElementSpacing = 1 1 3\n"
SIZE = f"CompressedData = True\nCompressedDataSize = {len(PACKED)}\n"
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 5\nspacings: 1 1 3\nendian: little\nencoding: raw\n"
ZIPPED = NRRD.replace("raw", "gzip")
SPACE = "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,3)"
SLICES = "".join(f"s{number}.raw\n" for number in range(5))
FILES = {
    "a.raw": RAW,
    "a.zraw": PACKED,
    "a.raw.gz": gzip.compress(RAW, mtime=0),
    "text.gz": b"two\nlines\n" + gzip.compress(b"header" + RAW, mtime=0),
    "skipped.raw": b"header" + RAW,
    **{f"s{number}.raw": VOXELS[..., number].tobytes("F") for number in range(5)},
    **{f"s{number}.gz": gzip.compress(VOXELS[..., number].tobytes("F"), mtime=0) for number in range(5)},
    **{f"s{number}.zraw": zlib.compress(VOXELS[..., number].tobytes("F")) for number in range(5)},
}


def write(folder: Path, name: str, header: str, data: bytes = b"") -> str:
    for file, content in FILES.items():
        (folder / file).write_bytes(content)
    (folder / name).write_bytes(header.encode() + data)
    return str(folder / name)


def refused(path: str, message: str) -> None:
    for read in (read_header, read_voxels):
        with pytest.raises(DataError, match=message):
            read(path)


WHOLE = {
    "beside": ("a.mhd", f"{META}ElementDataFile = a.raw\n", b""),
    "within": ("a.mha", f"{META}ElementDataFile = LOCAL\n", RAW),
    "lines of Windows": ("a.mha", f"{META}ElementDataFile = Local\n".replace("\n", "\r\n"), RAW),
    "as text": (
        "a.mha",
        f"{META}BinaryData = False\nElementDataFile = LOCAL\n",
        b" ".join(b"%d" % v for v in VOXELS.T.flat) + b"\n",
    ),
    "compressed": ("a.mha", f"{META}{SIZE}ElementDataFile = LOCAL\n", PACKED),
    "compressed, beside": ("a.mhd", f"{META}CompressedData = True\nElementDataFile = a.zraw\n", b""),
    "compressed, listed": (
        "a.mhd",
        f"{META}CompressedData = True\nElementDataFile = LIST\n{SLICES.replace('raw', 'zraw')}",
        b"",
    ),
    "bytes skipped": ("a.mhd", f"{META}HeaderSize = 6\nElementDataFile = skipped.raw\n", b""),
    "at the end": ("a.mhd", f"{META}HeaderSize = -1\nElementDataFile = skipped.raw\n", b""),
    "listed": ("a.mhd", f"{META}ElementDataFile = LIST\n{SLICES}", b""),
    "listed, more than slices": ("a.mhd", f"{META}ElementDataFile = LIST 2D\n{SLICES}gone.raw\n", b""),
    "numbered": ("a.mhd", f"{META}ElementDataFile = s%d.raw 0 4 1\n", b""),
    "numbered, from one": ("a.mhd", f"{META}ElementDataFile = s%01d.raw 0\n", b""),
    "numbered, to one": ("a.mhd", f"{META}ElementDataFile = s%d.raw 0 5\n", b""),
    "NRRD, within": ("a.nrrd", f"{NRRD}\n", RAW),
    "NRRD, lines of Windows": ("a.nrrd", f"{NRRD}\n".replace("\n", "\r\n"), RAW),
    "NRRD, beside": ("a.nhdr", f"{NRRD}data file: a.raw\n", b""),
    "NRRD, bytes skipped": ("a.nhdr", f"{NRRD}byte skip: 6\ndata file: skipped.raw\n", b""),
    "NRRD, at the end": ("a.nhdr", f"{NRRD}byte skip: -1\ndata file: skipped.raw\n", b""),
    "NRRD, listed": ("a.nhdr", f"{NRRD}data file: LIST\n{SLICES}", b""),
    "NRRD, numbered": ("a.nhdr", f"{NRRD}data file: s%d.raw 0 4 1\n", b""),
    "NRRD, compressed": ("a.nrrd", f"{ZIPPED}\n", FILES["a.raw.gz"]),
    "NRRD, compressed in two parts": ("a.nrrd", f"{ZIPPED}\n", gzip.compress(RAW[:50]) + gzip.compress(RAW[50:])),
    "NRRD, compressed, more after it": ("a.nrrd", f"{ZIPPED}\n", FILES["a.raw.gz"] + bytes(30)),
    "NRRD, compressed, beside": ("a.nhdr", f"{ZIPPED}data file: a.raw.gz\n", b""),
    "NRRD, compressed, listed": ("a.nhdr", f"{ZIPPED}data file: LIST\n{SLICES.replace('raw', 'gz')}", b""),
    "NRRD, compressed, parts skipped": ("a.nhdr", f"{ZIPPED}line skip: 2\nbyte skip: 6\ndata file: text.gz\n", b""),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_voxels_are_found_wherever_the_header_says(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, *WHOLE[kind])
    assert read_header(path).shape == SHAPE
    np.testing.assert_array_equal(read_voxels(path), VOXELS)


def test_numbers_of_nrrd_may_fall(tmp_path: Path) -> None:
    path = write(tmp_path, "a.nhdr", f"{NRRD}data file: s%d.raw 4 0 -1\n")
    np.testing.assert_array_equal(read_voxels(path), VOXELS[..., ::-1])


@pytest.mark.parametrize("kind", ["within", "lines of Windows", "compressed", "NRRD, within", "NRRD, lines of Windows"])
@pytest.mark.parametrize("cut", [1, 30])
def test_a_file_cut_short_says_how_short(
    tmp_path: Path, kind: str, cut: int, capfd: pytest.CaptureFixture[str]
) -> None:
    name, header, data = WHOLE[kind]
    message = (
        rf"{name}: truncated or unreadable \({len(data)} bytes of voxels expected, {len(data) - cut} found\); copy"
    )
    refused(write(tmp_path, name, header, data[:-cut]), message)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["beside", "listed", "numbered", "NRRD, beside", "NRRD, listed", "NRRD, numbered"])
@pytest.mark.parametrize("change", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-1])])
def test_a_file_of_voxels_that_is_missing_or_short_is_said_to_be(
    tmp_path: Path, kind: str, change: Callable[[Path], object], capfd: pytest.CaptureFixture[str]
) -> None:
    path, file = write(tmp_path, *WHOLE[kind]), "a.raw" if "beside" in kind else "s3.raw"
    change(tmp_path / file)
    gone = rf"{WHOLE[kind][0]}: expected the voxels beside the header, found no '{file}'; copy the header and all its"
    short = rf"{WHOLE[kind][0]}: truncated or unreadable \(120 bytes of voxels expected, 119 found\); copy it again"
    refused(path, short if (tmp_path / file).exists() else gone)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("LIST\ns0.raw\ns1.raw\n", "expected 5 files of voxels, found a header that names 2; correct the header"),
        (f"LIST\n\n{SLICES}", "expected the voxels beside the header, found no ''"),
        ("s%d.raw 0 2 1\n", "expected 5 files of voxels, found a header that names 3; correct the header"),
        ("s%d.raw 0 4\n", "expected the first, the last and the step of numbered files, found '0 4'"),
        ("s%d.raw 0 4 0\n", "expected the first, the last and the step of numbered files, found '0 4 0'"),
        ("s%d.raw 4 0 -1\n", "expected the first, the last and the step of numbered files, found '4 0 -1'"),
        ("s%d.raw a b c\n", "expected the first, the last and the step of numbered files, found 'a b c'"),
    ],
)
def test_lists_and_numbers_that_itk_miscounts_are_refused(tmp_path: Path, named: str, message: str) -> None:
    """It reads what it finds in memory, or its process ends."""
    refused(write(tmp_path, "a.mhd", f"{META}ElementDataFile = {named}"), rf"a\.mhd: {message}")


@pytest.mark.parametrize("field", ["DimSize", "ElementType", "ElementDataFile"])
def test_a_header_cut_short_says_what_it_lacks(tmp_path: Path, field: str, capfd: pytest.CaptureFixture[str]) -> None:
    header = f"{META}ElementDataFile = LOCAL\n"
    path = write(tmp_path, "a.mha", f"{header[: header.index(field)]}{field[:-1]}")
    refused(path, rf"a\.mha: truncated or unreadable \({field} expected in the header, none found\); copy it again")
    assert capfd.readouterr() == ("", "")


def test_names_in_a_header_do_not_command_a_terminal(tmp_path: Path) -> None:
    for name in ("gone\x1b[2J.raw", "../gone\x1b[2J.raw"):
        refused(write(tmp_path, "a.mhd", f"{META}ElementDataFile = {name}\n"), r"gone\\x1b\[2J\.raw")


DAMAGED = {
    "middle": (SIZE, PACKED[:20] + bytes([PACKED[20] ^ 255]) + PACKED[21:], r"truncated or unreadable \(Error -3"),
    "checksum": (SIZE, PACKED[:-1] + bytes([PACKED[-1] ^ 1]), r"truncated or unreadable \(.*incorrect data check"),
    "fewer voxels": (
        "CompressedData = True\nCompressedDataSize = 17\n",
        zlib.compress(bytes(9))[:17].ljust(17, b"\0"),
        r"truncated or unreadable \(120 bytes of voxels expected, 9 found\); copy it again",
    ),
    "no size": ("CompressedData = True\n", PACKED, "expected CompressedDataSize in the header of compressed voxels"),
    "too small a size": (
        SIZE.replace(str(len(PACKED)), "40"),
        PACKED,
        r"truncated or unreadable \(compressed voxels ended before",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_compressed_voxels_of_metaimage_are_refused(tmp_path: Path, kind: str) -> None:
    """ITK reads others without a word to its caller."""
    fields, data, message = DAMAGED[kind]
    path = write(tmp_path, "a.mha", f"{META}{fields}ElementDataFile = LOCAL\n", data)
    with pytest.raises(DataError, match=rf"a\.mha: {message}"):
        read_voxels(path)


def test_a_damaged_slice_of_a_list_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, *WHOLE["compressed, listed"])
    (tmp_path / "s3.zraw").write_bytes(FILES["s3.zraw"][:-6])
    with pytest.raises(DataError, match=r"a\.mhd: truncated or unreadable \(compressed voxels ended before"):
        read_voxels(path)


GZIP_DAMAGED = {
    "middle": ("NRRD, compressed", lambda data: data[:30] + bytes([data[30] ^ 255]) + data[31:], r"Error -3"),
    "checksum": (
        "NRRD, compressed",
        lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
        "Error -3.*data check",
    ),
    "length": ("NRRD, compressed", lambda data: data[:-1] + b"\1", "Error -3.*length check"),
    "cut": ("NRRD, compressed", lambda data: data[:-6], "compressed voxels ended before their end was reached"),
    "fewer voxels": ("NRRD, compressed", lambda data: gzip.compress(RAW[:9]), "120 bytes of voxels expected, 9 found"),
    "second part": ("NRRD, compressed in two parts", lambda data: data[:-6], "compressed voxels ended before"),
}


@pytest.mark.parametrize("kind", GZIP_DAMAGED)
def test_damaged_compressed_voxels_of_nrrd_are_refused(tmp_path: Path, kind: str) -> None:
    of, change, message = GZIP_DAMAGED[kind]
    name, header, data = WHOLE[of]
    with pytest.raises(DataError, match=rf"a\.nrrd: truncated or unreadable \(.*{message}.*\); copy it again"):
        read_voxels(write(tmp_path, name, header, change(data)))


@pytest.mark.parametrize(("kind", "file"), [("beside", "a.raw.gz"), ("listed", "s3.gz")])
def test_so_are_those_beside_an_nrrd_header(tmp_path: Path, kind: str, file: str) -> None:
    path = write(tmp_path, *WHOLE[f"NRRD, compressed, {kind}"])
    (tmp_path / file).write_bytes(FILES[file][:-8] + bytes(8))
    with pytest.raises(DataError, match=r"a\.nhdr: truncated or unreadable \(.*incorrect data check\); copy it again"):
        read_voxels(path)


def test_none_of_sixty_flipped_bits_in_a_compressed_nrrd_goes_unseen(tmp_path: Path) -> None:
    """ITK itself lets several of them pass, with other voxels."""
    voxels = np.random.default_rng(1).integers(0, 20, (40, 40, 40)).astype(np.uint8)
    header = ZIPPED.replace("short", "uint8").replace("4 3 5", "40 40 40")
    data, unseen = gzip.compress(voxels.tobytes("F"), 6, mtime=0), []
    for place in range(200, 200 + (len(data) - 400) // 60 * 60, (len(data) - 400) // 60):
        path = write(tmp_path, "a.nrrd", f"{header}\n", data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        with contextlib.suppress(DataError):
            unseen.append((place, int((read_voxels(path) != voxels).sum())))
    assert unseen == []


@pytest.mark.parametrize(
    ("name", "field", "found"),
    [
        ("a.nrrd", 'space units: "um" "um" "um"', "'um'"),
        ("a.nrrd", 'space units: "cm" "cm" "mm"', "'cm' and 'mm'"),
        ("a.nrrd", 'Space Units: "furlong" "furlong" "furlong"', "'furlong'"),
        ("a.nrrd", 'units: "m" "m" "m"', "'m'"),
        ("a.nrrd", 'space units: "mm" "mm" "mm"', ""),
        ("a.nrrd", 'space units: "" "" ""', ""),
        ("a.nrrd", 'units: "Millimeter" "mm" ""', ""),
        ("a.nrrd", 'units: "mm" "mm" "mm" "s"', ""),
        ("a.mha", "DistanceUnits = um", "'um'"),
        ("a.mha", "DistanceUnits = mm", ""),
        ("a.mha", "DistanceUnits = ?", ""),
    ],
)
def test_lengths_in_other_units_are_taken_as_mm_which_is_said(
    tmp_path: Path, name: str, field: str, found: str
) -> None:
    """As in ITK, by which labels are drawn and predictions looked at."""
    nrrd = NRRD.replace("spacings: 1 1 3", SPACE) if field.lower().startswith("space") else NRRD
    if field.endswith('"s"'):
        nrrd = nrrd.replace("dimension: 3", "dimension: 4").replace("4 3 5", "4 3 5 1").replace("1 1 3", "1 1 3 1")
    header = f"{nrrd}{field}\n\n" if name == "a.nrrd" else f"{META}{field}\nElementDataFile = LOCAL\n"
    path = write(tmp_path, name, header, RAW)
    expected = f"gives its lengths in {found}; they are taken as mm, as ITK takes them"
    notes = [note for note in read_header(path).notes if "anatomical space" not in note]
    assert notes == ([expected] if found else [])
    sides = np.linalg.norm(read_header(path).affine[:3, :3], axis=0)
    np.testing.assert_allclose(sides, list(itk.imread(path).GetSpacing())[:3])
    case = {"image": path, "case": "x", "patient": "x"}
    warned = [line for line in check_cases([case], {0: "a", 1: "b"}, 1, use_cache=False).warnings if expected in line]
    assert len(warned) == (1 if found else 0)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("space: left-posterior-superior", False),
        ("space: Right-Anterior-Superior", False),
        ("space: LAS", False),
        ("space: scanner-xyz", True),
        ("space: 3D-right-handed", True),
        ("space dimension: 3", True),
    ],
)
def test_a_space_that_is_none_of_the_body_s_is_said(tmp_path: Path, space: str, said: bool) -> None:
    """ITK takes its axes as those to the left, back and head."""
    directions = "space directions: (1,0,0) (0,1,0) (0,0,3)"
    path = write(tmp_path, "a.nrrd", f"{NRRD.replace('spacings: 1 1 3', f'{space}{chr(10)}{directions}')}\n", RAW)
    note = "names no anatomical space, such as LPS; one of axes to the left, back and head is assumed"
    assert read_header(path).notes == ((note,) if said else ())
    if said:
        np.testing.assert_allclose(read_header(path).affine, np.diag([-1.0, -1.0, 3.0, 1.0]))


@pytest.mark.parametrize("kind", ["int8", "int64", "uint64", "int32"])
def test_voxels_of_any_whole_type_are_read(tmp_path: Path, kind: str) -> None:
    """ITK has no images of the first two in Python; int64 is NumPy's own type of whole numbers."""
    voxels = np.arange(60, dtype=kind).reshape(3, 4, 5)
    fields = f"type: {kind}\ndimension: 3\nsizes: 3 4 5\nspacings: 1 1 2\nendian: little\nencoding: raw"
    (tmp_path / "a.nrrd").write_bytes(f"NRRD0004\n{fields}\n\n".encode() + voxels.T.tobytes())
    np.testing.assert_array_equal(read_voxels(str(tmp_path / "a.nrrd")), voxels)
