"""Files made to run code, to have other files read or to command a terminal are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from support.bundle_runs import make_volumes

from vqseg_bundle.data import DataError, read_header, read_voxels


class _Hostile:
    """Pickle calls what this says when it loads it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("read", [read_header, read_voxels])
@pytest.mark.parametrize("array", [True, False])
def test_a_pickle_named_as_an_array_is_refused_and_not_run(tmp_path: Path, read, array: bool):
    path, hostile = tmp_path / "a.npy", _Hostile(tmp_path / "trace")
    if array:
        np.save(path, np.array([hostile]), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(hostile))
    with pytest.raises(DataError, match=r"a.npy: truncated or unreadable"):
        read(str(path))
    assert not (tmp_path / "trace").exists()


#: suffix to ways to name the voxels, all of which the libraries understand
_MHD, _NHDR = "ElementDataFile = ", "data file: "
_HEADERS = {
    ".mhd": (
        "NDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\n",
        [_MHD, f"  {_MHD}", "ElementDataFile: ", f"\n{_MHD}"],
    ),
    ".nhdr": (
        "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n",
        [_NHDR, "datafile: ", f"#{'a' * 9999}\n{_NHDR}", "#\n" * 11_000 + _NHDR],
    ),
}


@pytest.mark.parametrize(
    "name", ["../secret.raw", "{root}/secret.raw", "LIST\nslice.raw\n../secret.raw", "%s%ssecret.raw 1 2 1"]
)
@pytest.mark.parametrize("suffix, number", [(suffix, number) for suffix in _HEADERS for number in range(4)])
def test_a_header_that_names_voxels_elsewhere_is_refused(tmp_path: Path, suffix: str, number: int, name: str) -> None:
    """Whoever wrote the header would choose which files of this machine are read."""
    (tmp_path / "cohort").mkdir()
    for secret in (tmp_path / "secret.raw", tmp_path / "cohort" / "slice.raw"):
        secret.write_bytes(bytes(range(64)))
    path, (lines, keys) = tmp_path / "cohort" / f"a{suffix}", _HEADERS[suffix]
    header = f"{lines}{keys[number]}{name.format(root=tmp_path)}\n"
    path.write_text(header)
    for read in (read_header, read_voxels):
        with pytest.raises(DataError, match=rf"a\{suffix}: expected voxels beside the header, .* names .*secret\.raw"):
            read(str(path))
    path.write_text(f"{lines}{keys[number]}slice.raw\n")
    assert read_voxels(str(path)).sum() == sum(range(64))


def test_a_header_without_end_or_of_another_library_is_refused(tmp_path: Path) -> None:
    endless, other = tmp_path / "a.mha", tmp_path / "b.nrrd"
    endless.write_text("ObjectType = Image\n" + "Comment = a\n" * 90_000)
    Image.new("L", (4, 4)).save(other, format="png")  # which ITK would read under any name
    for path, message in ((endless, "expected a header of less than 1 MiB"), (other, "expected an NRRD or MetaImage")):
        with pytest.raises(DataError, match=message):
            read_header(str(path))


def test_a_volume_whose_name_would_command_a_terminal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J.nii.gz"
    nib.save(make_volumes(0)[0], path)
    with pytest.raises(DataError, match=r"a\\x1b\[2J\.nii\.gz': expected a name without control characters; rename"):
        read_header(str(path))
