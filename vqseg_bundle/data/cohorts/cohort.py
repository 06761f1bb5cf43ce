"""Open a run's cohort: its datalist, cases listed in the configuration, or the embedded demo cohort; and its digest.

MONAI Label, or any override of ``train#dataset#data``, lists only labelled cases. The unlabelled cases are then the
other images beside theirs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vqseg_bundle.common import shell_line

from ..formats.table import volume_kind
from ..formats.volume_io import source_files
from ..formats.volume_path import accepts_uneven, channel_paths, parse_volume_path
from ..layouts.channel_files import gather_channels, sequences_of_files
from ..layouts.volume_folder import list_series_paths
from .datalist import Cohort, DataError, cohort_of_lists, load_datalist
from .demo_cohort import write_demo_cohort

__all__ = ["data_digest", "find_datalist", "find_other_images", "open_cohort", "open_listed_cases"]

_DATALIST_NAMES = ("datalist.json", "dataset.json")
logger = logging.getLogger(__name__)
_BLOCK = 2**20
_GZIP_MAGIC = b"\x1f\x8b"


def open_cohort(
    dataset_dir: str | None,
    datalist: str | None,
    demo_dir: str,
    uneven_slices: str = "refuse",
    allow_outside_files: bool = False,
) -> Cohort:
    """Find and read the datalist; if neither key is given, write the demo cohort on first use and read that.

    Args:
        dataset_dir: folder of the volumes; None or empty: the folder of ``datalist``.
        datalist: datalist file; None or empty: ``datalist.json``, otherwise ``dataset.json``, in ``dataset_dir``.
        demo_dir: folder for the demo cohort.
        uneven_slices: "refuse" or "accept" DICOM series with unevenly spaced slices.
        allow_outside_files: whether a datalist may name files outside ``dataset_dir``.

    Raises:
        DataError: the folder has no datalist, or :func:`load_datalist` refuses it.
        ValueError: ``uneven_slices`` is neither of the two.
    """
    choices = (accepts_uneven(uneven_slices), allow_outside_files)
    if not dataset_dir and not datalist:
        folder = write_demo_cohort(Path(demo_dir).expanduser())
        return load_datalist(folder / "datalist.json", folder)
    if datalist:
        return load_datalist(datalist, dataset_dir or Path(datalist).expanduser().parent, *choices)
    folder = Path(dataset_dir or "").expanduser()
    found = find_datalist(folder)
    if folder.is_dir() and not found:
        above = folder.resolve().parent
        near = f" {above} has one: is that the dataset_dir?" if find_datalist(above) else ""
        raise DataError(
            f"dataset_dir {folder}: expected {' or '.join(_DATALIST_NAMES)} in it, found neither.{near} Name the file "
            f"with datalist, or build one: {shell_line(['vqseg', 'data', str(folder)])}"
        )
    return load_datalist(found or folder / _DATALIST_NAMES[0], folder, *choices)


def find_datalist(folder: Path) -> Path | None:
    """The datalist in a folder, if it has one."""
    return next((folder / name for name in _DATALIST_NAMES if (folder / name).is_file()), None)


def open_listed_cases(
    lists: Mapping[str, Sequence[Mapping[str, str]]], labels: Mapping[int, str], name: str, source: str
) -> Cohort:
    """A cohort from lists of cases by split; without an "unlabeled" list, it uses :func:`find_other_images`.

    Paths may be relative to the working directory; messages name ``source``. DataError: an entry is not a case.
    """
    cohort = cohort_of_lists(lists, labels, name, source)
    if "unlabeled" in lists:
        return cohort
    others = find_other_images([*cohort.training, *cohort.validation, *cohort.test])
    return cohort_of_lists({**lists, "unlabeled": [{"image": path} for path in others]}, labels, name, source)


def find_other_images(cases: Sequence[Mapping[str, str]]) -> list[str]:
    """Images beside those of the given cases, of the same kind, that belong to no case and are not labels.

    Only the image's folder is searched, not its subfolders. MONAI Label resolves links, so for an image linked into a
    study folder, the study folder is found above the label: ``STUDY/labels/final/a.nii.gz`` leads to
    ``STUDY/a.nii.gz``. If labels are in the same folder as their images, other images cannot be told from labels, and
    none are returned.

    Returns:
        absolute paths, sorted within each folder; joined for channels in separate files, if the cases have such.
    """
    kinds: dict[Path, set[str]] = {}
    for case in cases:
        kinds.setdefault(_study_folder(case), set()).add(volume_kind(case["image"]))
    labels = [Path(case["label"]) for case in cases if "label" in case]
    mixed = sorted(str(folder) for folder in {label.parent.resolve() for label in labels} & _resolved(kinds))
    if mixed:
        logger.warning(
            "no unlabelled images: labels lie beside images in %s, so that images without a label cannot be told from "
            "labels. Move the labels to a folder of their own, or list the images with unlabeled_data.",
            ", ".join(mixed),
        )
        return []
    taken = _resolved([*labels, *(_file(path) for case in cases for path in channel_paths(case["image"]))])
    found = [path for folder, those in kinds.items() for path in _volumes(folder, those)]
    others = [path for path in dict.fromkeys(found) if _file(path).resolve() not in taken]
    volumes = [channel_paths(case["image"]) for case in cases]
    count = max(map(len, volumes), default=1)
    names = next(filter(None, map(sequences_of_files, volumes)), ())
    return list(gather_channels(others, count, names)) if count > 1 else others


def _study_folder(case: Mapping[str, str]) -> Path:
    image = _file(case["image"])
    for folder in Path(case["label"]).parents if "label" in case else ():
        beside = folder / image.name
        if beside.exists() and image.exists() and beside.samefile(image):
            return folder
    return image.parent


def _volumes(folder: Path, kinds: set[str]) -> Iterator[str]:
    """Volumes directly in a folder; a DICOM series is a subfolder."""
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.name.startswith(".") or volume_kind(entry) not in kinds:
            continue
        if entry.is_dir():
            yield from list_series_paths(entry)
        else:
            yield str(entry)


def _file(path: str) -> Path:
    return parse_volume_path(path).file


def _resolved(paths: Iterable[Path]) -> set[Path]:
    return {Path(os.path.realpath(path)) for path in paths}


def data_digest(cohort: Cohort, known: str | None = None) -> str:
    """Return the SHA-256 of a cohort: labels, splits, and each file's name, size and content.

    Names are relative to the files' common folder, so a moved cohort keeps its digest. All of a file is read, 1 s for
    about 1 GB and as fast as its disk allows; but of gzip files above 2 MiB only the first and last MiB, since they end
    with the checksum of their content. FileNotFoundError: a file is missing.

    Args:
        cohort: the opened cohort.
        known: digest in an earlier run's record. Up to 0.11.3 only the first and last MiB of any large file were read;
            if it is the digest of that kind, it is returned.
    """
    sources = {volume: source_files(volume) for volume in _volumes_of(cohort)}
    found = _digest(cohort, sources, abridged=False)
    if known in (None, found):
        return found
    former = _digest(cohort, sources, abridged=True)
    return former if known == former else found


def _volumes_of(cohort: Cohort) -> set[str]:
    return {
        case[key] for cases in cohort.splits().values() for case in cases for key in ("image", "label") if key in case
    }


def _digest(cohort: Cohort, sources: Mapping[str, Sequence[str]], abridged: bool) -> str:
    root = os.path.commonpath([Path(file).parent for files in sources.values() for file in files]) if sources else ""
    prints = {volume: _volume_print(files, root, abridged) for volume, files in sources.items()}
    cases = [(split, case) for split, cases in cohort.splits().items() for case in cases]
    listing = sorted([split, prints[case["image"]], prints.get(case.get("label", ""), [])] for split, case in cases)
    # no label_values give the digest of versions without them, so that digests stay comparable
    values = {"label_values": list(cohort.label_values.values())} if cohort.label_values else {}
    content = json.dumps({"labels": list(cohort.indices.values()), **values, "cases": listing})
    return hashlib.sha256(content.encode()).hexdigest()


def _volume_print(files: Sequence[str], root: str, abridged: bool) -> list[Any]:
    """For a single file the same as in versions without volumes of several files, so that digests stay comparable."""
    return [
        part for file in files for part in (Path(file).relative_to(root).as_posix(), *_file_print(Path(file), abridged))
    ]


def _file_print(path: Path, abridged: bool) -> tuple[int, str]:
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        start = file.read(_BLOCK)
        digest.update(start)
        if abridged or start.startswith(_GZIP_MAGIC):
            file.seek(max(_BLOCK, size - _BLOCK))
        while block := file.read(_BLOCK):
            digest.update(block)
    return size, digest.hexdigest()
