"""A cohort of cases that are listed in a configuration, with the other images of their folder as unlabelled ones.

MONAI Label, and whoever overrides ``train#dataset#data``, names labelled cases alone. What VQ-Seg learns from besides
are the images that lie beside theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..formats import channel_paths, parse_volume_path, volume_kind
from ..layouts.channel_files import gather_channels
from ..layouts.volume_folder import list_series_paths
from .datalist import Cohort, cohort_of_lists

__all__ = ["find_other_images", "open_listed_cases"]

logger = logging.getLogger(__name__)


def open_listed_cases(
    lists: Mapping[str, Sequence[Mapping[str, str]]], labels: Mapping[int, str], name: str, source: str
) -> Cohort:
    """The cohort of some lists; without an "unlabeled" one, its unlabelled cases are :func:`find_other_images`.

    Args:
        lists: "training" and any other split to its cases; paths may be relative to the working directory.
        labels: class index to class name, background included.
        name: name of the cohort.
        source: where the lists come from, for messages.

    Raises:
        DataError: an entry is no case.
    """
    cohort = cohort_of_lists(lists, labels, name, source)
    if "unlabeled" in lists:
        return cohort
    others = find_other_images([*cohort.training, *cohort.validation, *cohort.test])
    return cohort_of_lists({**lists, "unlabeled": [{"image": path} for path in others]}, labels, name, source)


def find_other_images(cases: Sequence[Mapping[str, str]]) -> list[str]:
    """Images beside those of the given cases, of the same kind, that are neither of a case nor a label.

    The folder is that of the image, not the folders below. MONAI Label resolves links, so an image that is linked into
    a study folder is looked for above its label: ``STUDY/labels/final/a.nii.gz`` leads to ``STUDY/a.nii.gz``. Where
    labels lie beside their images, the other images cannot be told from labels, and there are none.

    Args:
        cases: with "image" and "label" (absolute paths); those without a label say where images lie, too.

    Returns:
        absolute paths, sorted within each folder; of channels in files of their own, where the cases' are so, joined.
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
    count = max((len(channel_paths(case["image"])) for case in cases), default=1)
    return list(gather_channels(others, count)) if count > 1 else others


def _study_folder(case: Mapping[str, str]) -> Path:
    image = _file(case["image"])
    for folder in Path(case["label"]).parents if "label" in case else ():
        beside = folder / image.name
        if beside.exists() and image.exists() and beside.samefile(image):
            return folder
    return image.parent


def _volumes(folder: Path, kinds: set[str]) -> Iterator[str]:
    """Volumes in a folder itself; a DICOM series is a folder in it."""
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
    return {path.resolve() for path in paths}
