"""The text of NRRD and MetaImage headers, and the files of voxels that it names.

What ITK says of files that are not there or too short is wrong, partly on the terminal; some lists and numbers of files
end its process, and damaged compressed voxels it takes for whole. All this is looked at before ITK reads a file.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import DataError

__all__ = ["HeaderText", "check_fields", "check_files", "check_length", "check_packed", "read_header_text"]

#: of MetaImage and NRRD, as their libraries read them
_DATA_FILE = re.compile(
    rb"(?:^|[\r\n])\s*(?:ElementDataFile\s*[=:]|data ?file:)([^\r\n]*)(.*)", re.IGNORECASE | re.DOTALL
)
_END_OF_NRRD = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_NUMBERED = re.compile(r"[^%]*(%0?\d?d[^%]*)?")
_LONGEST_HEADER = 2**20
_MOST_FILES = 100_000
_BLOCK = 2**16
_ANY_PACKING = 47  # zlib's or gzip's, as MetaImage's library takes either
_GZIP, _GZIP_MAGIC = 31, b"\x1f\x8b"  # the only one that NRRD's takes
_REQUIRED = ("DimSize", "ElementType", "ElementDataFile")


@dataclass(frozen=True)
class HeaderText:
    """The text of a header.

    Args:
        path: its file.
        nrrd: whether it is NRRD's; otherwise MetaImage's, or of other content.
        fields: value by name, in lower case and without blanks.
        end: number of bytes before voxels in the same file; None if it is not found.
        named: what is named for the voxels: a file, or LIST and all that follow; LOCAL or nothing if they follow.
    """

    path: str
    nrrd: bool
    fields: dict[str, str]
    end: int | None
    named: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where the files of the voxels are looked for."""
        return Path(self.path).parent

    @property
    def packed(self) -> bool:
        """Whether the voxels are compressed, of NRRD by gzip."""
        if self.nrrd:
            return self.fields.get("encoding", "").lower() in ("gzip", "gz")
        return self.fields.get("compresseddata", "")[:1] in ("T", "t", "1")

    @cached_property
    def files(self) -> list[str] | None:
        """Names of the files of the voxels, in order; None if the voxels follow the header.

        DataError: they are not as many as the header says, or not numbered as ITK can count.
        """
        first = self.named[0] if self.named else ""
        if not self.named or (not self.nrrd and first in ("LOCAL", "Local", "local")):
            return None
        if first.startswith("LIST"):
            names, axes = list(self.named[1:]), re.match(r"LIST\s+(\d+)", first)
            expected = self._pieces(int(axes[1]) if axes else None)
        elif "%" in first:
            names, expected = self._numbered(*first.split()), self._pieces(None)
        else:
            return [first]
        if self.nrrd or expected is None:
            return names
        if len(names) < expected:
            raise DataError(
                f"{self.path}: expected {expected} files of voxels, found a header that names {len(names)}; correct "
                "the header."
            )
        return names[:expected]  # as ITK does

    def _pieces(self, axes: int | None) -> int | None:
        """How many files MetaImage's library reads if each has so many axes, by default all but one."""
        sizes = self.fields.get("dimsize", "").split()
        if not sizes or not all(size.isdecimal() for size in sizes):
            return None
        return math.prod(int(size) for size in sizes[axes if axes and axes <= len(sizes) else -1 :])

    def _numbered(self, pattern: str, *words: str) -> list[str]:
        """The names of slice%03d.raw 1 20 1; MetaImage may leave out the step, the last number, or all three."""
        given = [int(word) for word in words[:3] if re.fullmatch(r"-?\d{1,9}", word)]
        count = self._pieces(None) or 1
        first = given[0] if given else 1
        last = given[1] if len(given) > 1 else first + count - 1
        step = given[2] if len(given) > 2 else ((last - first) // count if len(given) == 2 else 1)
        # ITK's process ends at a step of 0
        if len(given) < (3 if self.nrrd else min(len(words), 3)) or step == 0 or (step < 0 and not self.nrrd):
            raise DataError(
                f"{self.path}: expected the first, the last and the step of numbered files, found "
                f"{' '.join(words)!r}; correct the header."
            )
        numbers = range(first, last + (1 if step > 0 else -1), step)
        return [pattern % number for number in itertools.islice(numbers, _MOST_FILES)]


def read_header_text(path: str) -> HeaderText:
    """Read the text of a header.

    Raises:
        DataError: it has no end within a MiB.
    """
    with Path(path).open("rb") as file:
        head = file.read(_LONGEST_HEADER)
    nrrd = head.startswith(b"NRRD")
    blank = _END_OF_NRRD.search(head) if nrrd else None
    found = _DATA_FILE.search(head[: blank.end()] if blank else head)
    whole = len(head) < _LONGEST_HEADER
    name = found[1].decode("utf-8", "replace").strip() if found else ""
    listed = name.upper().startswith("LIST")
    if (found is None and not blank and not whole) or (listed and not whole):
        raise DataError(f"{path}: expected a header of less than 1 MiB, found a longer one; save the volume anew.")
    lines = found[2].splitlines()[1:] if found and listed else []
    named = (name, *(line.decode("utf-8", "replace").strip() for line in lines)) if found else ()
    while named and not named[-1]:
        named = named[:-1]
    text, end = _parts(head, blank, found, nrrd)
    return HeaderText(path, nrrd, _fields(text), end, named)


def _parts(
    head: bytes, blank: re.Match[bytes] | None, found: re.Match[bytes] | None, nrrd: bool
) -> tuple[bytes, int | None]:
    """The lines of fields, and where voxels begin that follow them."""
    if nrrd:
        return (head[: blank.start()], blank.end()) if blank else (head, None)
    if found is None:
        return head, None
    line_end = 2 if head[found.end(1) :].startswith(b"\r\n") else 1
    return head[: found.end(1)], found.end(1) + line_end


def _fields(text: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, *value = (part.strip() for part in re.split(rb"[:=]", line, maxsplit=1))
        if value and not key.startswith(b"#") and not value[0].startswith(b"="):  # key:=value is no field of NRRD
            fields.setdefault(
                "".join(key.decode("utf-8", "replace").lower().split()), value[0].decode("utf-8", "replace")
            )
    return fields


def check_files(text: HeaderText) -> None:
    """Check the files that a header names, before ITK opens them.

    Raises:
        DataError: one lies outside the header's folder, or is not there.
    """
    _refuse_data_elsewhere(text)
    for name in text.files or ():
        if not (text.folder / name).is_file():
            raise DataError(
                f"{text.path}: expected the voxels beside the header, found no {name!r}; copy the header and all its "
                "files of voxels."
            )


def _refuse_data_elsewhere(text: HeaderText) -> None:
    """Refuse a header whose voxels lie outside its folder: whoever wrote it would choose which files are read."""
    folder = os.path.abspath(text.folder)  # noqa: PTH100
    for name in text.named:
        found = os.path.normpath(Path(folder, name))
        # a % that numbers no files would be one of C's printf, and read memory
        if not Path(found).is_relative_to(folder) or not _NUMBERED.fullmatch(name):
            raise DataError(
                f"{text.path}: expected voxels beside the header, found a header that names {name!r}; put both into "
                "one folder and correct the name in the header."
            )


def check_fields(text: HeaderText) -> None:
    """Check that a MetaImage header is whole; of NRRD, ITK itself says what is missing.

    Raises:
        EOFError: a field is missing that every header has.
    """
    for name in () if text.nrrd else _REQUIRED:
        if name.lower() not in text.fields:
            raise EOFError(f"{name} expected in the header, none found")


def check_length(text: HeaderText, size: int) -> None:
    """Check that there are as many bytes as voxels of ``size`` bytes need, if the header tells.

    Raises:
        EOFError: the header or the voxels are truncated.
    """
    needed = _stored_size(text, size)
    if needed is None or (text.files is None and text.end is None):
        return
    if text.files is None:
        found = Path(text.path).stat().st_size - (text.end or 0)
    else:
        found = sum((text.folder / name).stat().st_size for name in text.files)
    if found < needed:
        raise EOFError(f"{needed} bytes of voxels expected, {max(found, 0)} found")


def _stored_size(text: HeaderText, size: int) -> int | None:
    """Bytes that voxels of ``size`` bytes take on disk; None if the header does not tell."""
    given = text.fields
    if text.nrrd:
        skipped = {given.get("byteskip", "0"), given.get("lineskip", "0")}
        return size if given.get("encoding", "").lower() == "raw" and skipped == {"0"} else None
    if given.get("headersize", "0") != "0" or given.get("binarydata", "True")[:1] not in ("T", "t", "1"):
        return None
    if not text.packed:
        return size
    one = text.files is None or len(text.files) == 1
    return int(stated) if one and (stated := given.get("compresseddatasize", "0")).isdecimal() else None


def check_packed(text: HeaderText, size: int) -> None:
    """Unpack compressed voxels to the end: where they are damaged, ITK reads others and says nothing.

    Raises:
        DataError: a MetaImage header does not say how many bytes they take.
        EOFError: they are truncated.
        zlib.error: they are damaged.
    """
    if not text.packed:
        return
    stated = 0 if text.nrrd else int(text.fields.get("compresseddatasize", "0"))
    if not text.nrrd and text.files is None and not stated:
        raise DataError(
            f"{text.path}: expected CompressedDataSize in the header of compressed voxels, found none, without which "
            "ITK does not unpack them; save the volume anew."
        )
    if text.files is None:
        files, start = [Path(text.path)], text.end or 0
    else:
        files, start = [text.folder / name for name in text.files], 0
    if text.nrrd:
        lines = int(text.fields.get("lineskip", "0"))
        found = sum(_gunzipped_size(file, start, lines) for file in files)
    else:
        sizes = [stated if stated and len(files) == 1 else file.stat().st_size for file in files]
        found = sum(_unpacked_size(file, start, length) for file, length in zip(files, sizes, strict=True))
    if found < size:
        raise EOFError(f"{size} bytes of voxels expected, {found} found")


def _unpacked_size(path: Path, start: int, left: int) -> int:
    unpacker, found = zlib.decompressobj(_ANY_PACKING), 0
    with path.open("rb") as packed:
        packed.seek(start)
        while block := packed.read(min(left, _BLOCK)):
            left -= len(block)
            found += len(unpacker.decompress(block))
    return _ended(unpacker, found)


def _gunzipped_size(path: Path, start: int, lines: int) -> int:
    """Of all parts, since gzip files may be joined to one; what else follows them is ignored, as by ITK."""
    unpacker, found = zlib.decompressobj(_GZIP), 0
    with path.open("rb") as packed:
        packed.seek(start)
        for _ in range(lines):
            packed.readline()
        while block := packed.read(_BLOCK):
            found += len(unpacker.decompress(block))
            while unpacker.eof:
                rest = unpacker.unused_data + packed.read(len(_GZIP_MAGIC))
                if not rest.startswith(_GZIP_MAGIC):
                    return found
                unpacker = zlib.decompressobj(_GZIP)
                found += len(unpacker.decompress(rest))
    return _ended(unpacker, found)


def _ended(unpacker: Any, found: int) -> int:
    if not unpacker.eof:
        raise EOFError("compressed voxels ended before their end was reached")
    return found
