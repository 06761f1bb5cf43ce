"""What files and folders are by their names: labels, results of earlier runs, predictions, or previews, and no images.

Inference and the layouts leave them out by the same rules. Reasons are worded to follow "left out as".
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path, PurePath

from ..formats.table import is_flat, volume_kind
from ..formats.volume_path import parse_volume_path
from .channel_files import case_of_channel
from .found_case import case_stem

__all__ = [
    "LABELS_BESIDE",
    "PREDICTIONS",
    "PREVIEWS",
    "RESULTS",
    "folder_reason",
    "image_of_label",
    "image_reasons",
    "is_label_name",
    "is_result_folder",
    "is_training_result",
    "left_out_folders",
    "name_reasons",
    "reasons_below",
]

RESULTS = "results of earlier runs"
LABELS_BESIDE = "labels of files beside them, by their names"
PREDICTIONS = "predictions of other files, by their names"
PREVIEWS = "previews of the volumes beside them"

#: of a folder or file that was kept beside a newer one, or of what made it: predictions_1, pred_nnunet, a_pred(1)
_KEPT = r"([-_. ]?(\(\d+\)|v?\d+|bak|backup|copy|old|new|final|nnu-?net\w*|totalseg\w*|vqseg\w*))*"
_PART = r"([-_. ]?(tr|ts|va|val|train|test|training|testing|validation))?"
_RESULT_FOLDER = re.compile(
    rf"(.+[-_. ])?(predictions?|preds?|predicted){_PART}{_KEPT}|infer(ts|tr|va|val|test)"
    rf"|(.+[-_. ])?(seg|segmentation)s?[-_. ](results?|outputs?|out){_KEPT}|totalsegmentator|previous-.*",
    re.IGNORECASE,
)
#: of folders that may have scans as well: a volume in them is a result if another has its name
_VAGUE_FOLDER = re.compile(
    r"(.+[-_. ])?(results?|outputs?|out|infer|inferences?|inferred|predictions?|preds?|predicted)"
    rf"{_PART}([-_. (].*|\d+)?",
    re.IGNORECASE,
)
_VERSION = r"(manual|expert|final|corrected|refined|old|new|v\d+)"
_LABEL_FOLDER = re.compile(
    rf"({_VERSION}[-_. ])*(label|mask|seg|segmentation|annotation|gt|ground[-_ ]?truth)s?"
    rf"([-_ ]?(tr|ts|va|val|train|test|training|testing|validation))?([-_. ]{_VERSION})*",
    re.IGNORECASE,
)
#: files in a training's output folder, beside its run.json, that could be taken for images
_TRAINING_RESULTS = ("progress.png",)
_PREDICTION_ENDING = re.compile(
    rf"[_.-](preds?|predictions?|predicted|probs?|probability|probabilities|entropy){_KEPT}$", re.IGNORECASE
)
#: only of a file beside, since scans may be called so
_RESULT_ENDING = re.compile(rf"[_.-](results?|outputs?|vqseg|nnu-?net){_KEPT}$", re.IGNORECASE)
_PREDICTION_BEGINNING = re.compile(r"^(preds?|predictions?|predicted)[_.-]", re.IGNORECASE)
_LABEL_WORD = r"(d?seg|segmentations?|masks?|labels?|label[-_]?maps?|gt|ground[_-]?truth|annotations?)"
_LABEL_ENDING = re.compile(rf"[_.-]{_LABEL_WORD}$", re.IGNORECASE)
_LABEL_NAME = re.compile(r"^(labels?|seg|segmentations?|masks?|gt|annotations?|ground[_-]?truth)$", re.IGNORECASE)
#: what follows an image's whole name in its label's: mask_1, liver_mask, roi, but not no_mask
_LABEL_REST = re.compile(
    rf"(?!(.*[_. -])?(no|non|without)[_. -])(.+[_. -])?({_LABEL_WORD}|[^\W\d_]+mask|truth|rois?|manual)([_. -]?\d+)?",
    re.IGNORECASE,
)
_LABEL_BEGINNING = re.compile(rf"{_LABEL_WORD}(?=[\W\d_])", re.IGNORECASE)
_BEGINNING = re.compile(r"[^\W\d_]+(?=[\W\d_])")
_SEPARATOR = re.compile(r"[_. -]")


def image_of_label(name: str) -> str:
    """The name of a label's image, without ``_seg``, ``_mask``, ``_gt`` ...; a hyphen or dot may replace ``_``."""
    return _LABEL_ENDING.sub("", name)


def is_label_name(name: str) -> bool:
    """Whether a file's whole stem marks it as a label, like ``segmentation`` beside ``imaging``."""
    return _LABEL_NAME.match(name) is not None


def is_result_folder(name: str) -> bool:
    """Whether a folder of this name has results of earlier runs, such as ``predictions``."""
    return _RESULT_FOLDER.fullmatch(name) is not None


def is_training_result(file: Path) -> bool:
    """Whether this is a picture of a training, in its output folder."""
    return file.name in _TRAINING_RESULTS and file.with_name("run.json").is_file()


def folder_reason(name: str) -> str:
    """Why a folder with this name has no images; empty if it may have."""
    if is_result_folder(name):
        return RESULTS
    return "labels" if _LABEL_FOLDER.fullmatch(name) else ""


def left_out_folders(place: Path, root: Path) -> list[Path]:
    """The folders of labels or results, by their names, on the way from ``root`` to a file or folder, uppermost first.

    ``root`` is not among them; ``place`` is, if it is a folder.
    """
    way = [folder for folder in (place, *place.parents) if root in folder.parents]
    folders = way if place.is_dir() else way[1:]
    return [folder for folder in reversed(folders) if folder_reason(folder.name)]


def reasons_below(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Why some of the volumes below a folder are no images, by the names of their folders or their own."""
    found = {}
    for path in paths:
        place = parse_volume_path(path).file
        folders = left_out_folders(place, root)
        if folders or is_training_result(place):
            found[path] = folder_reason(folders[0].name) if folders else RESULTS
    return {**found, **image_reasons([path for path in paths if path not in found])}


def image_reasons(paths: Sequence[str]) -> dict[str, str]:
    """Why some of the files are no images: pictures and arrays if there are volumes, and :func:`name_reasons`."""
    flat = [path for path in paths if is_flat(path)]
    if len(flat) == len(paths):
        return name_reasons(paths)
    return {**dict.fromkeys(flat, PREVIEWS), **name_reasons([path for path in paths if not is_flat(path)])}


def name_reasons(paths: Sequence[str]) -> dict[str, str]:
    """Why some of the volumes are no images by their names among the others.

    A label is beside its image, or beside any if ``label`` and the like is its whole name; the image of a prediction
    may be in another folder. In a folder called ``results``, ``output`` and the like, a volume is a result if one
    outside such folders has its name. Without another file that it belongs to, any name is an image's.
    """
    places = {(PurePath(path).parent, case_stem(path)) for path in paths}
    places |= {(folder, case_of_channel(name)) for folder, name in places}
    names, folders = {name for _, name in places}, defaultdict[PurePath, set[str]](set)
    for folder, name in places:
        folders[folder].add(name)
    beside = _images_by_folder(paths)
    rests = {folder: _rests(those) for folder, those in folders.items()}
    found = _results_elsewhere(paths)
    for path in paths:
        name, folder = case_stem(path), PurePath(path).parent
        if _is_prediction(name, names) or _is_result_beside(name, folders[folder]):
            found[path] = PREDICTIONS
        elif _is_label(name, folders[folder], beside[folder]) or _begins_as_label(name, folders[folder], rests[folder]):
            found[path] = LABELS_BESIDE
    return found


def _is_prediction(name: str, names: AbstractSet[str]) -> bool:
    segmented = _PREDICTION_ENDING.sub("", name)
    return segmented != name and not names.isdisjoint({segmented, image_of_label(segmented)})


def _is_result_beside(name: str, names: AbstractSet[str]) -> bool:
    plain = {_RESULT_ENDING.sub("", name), _PREDICTION_BEGINNING.sub("", name)} - {name}
    return not names.isdisjoint(plain | {image_of_label(each) for each in plain})


def _results_elsewhere(paths: Sequence[str]) -> dict[str, str]:
    """Volumes in folders of results by a vague name, that are called as one outside such folders."""
    # the folders above what all have in common are only where the user keeps everything
    above = len(PurePath(os.path.commonpath([PurePath(path).parent for path in paths])).parts) if paths else 0
    vague = {
        path
        for path in paths
        if any(_VAGUE_FOLDER.fullmatch(part) for part in PurePath(path).parts[above:-1])
        and volume_kind(path) != "dicom"
    }
    outside = {case_stem(path) for path in paths if path not in vague}
    outside |= {case_of_channel(name) for name in outside}
    return {path: RESULTS for path in vague if not outside.isdisjoint(_segmented(path))}


def _segmented(path: str) -> set[str]:
    """Names that the image of a result may have."""
    name = case_stem(path)
    return {name, image_of_label(name)}


def _is_label(name: str, names: AbstractSet[str], images: Sequence[str]) -> bool:
    """Whether a name is that of a label, of one of the names or images in its folder."""
    image = image_of_label(name)
    if image != name and (image in names or any(_is_of(image, other) for other in images)):
        return True
    ends = [match.span() for match in _SEPARATOR.finditer(name)]
    if any(name[:start] in names and _LABEL_REST.fullmatch(name[end:]) for start, end in ends):
        return True
    return bool(images) and is_label_name(name)


def _begins_as_label(name: str, names: AbstractSet[str], rests: AbstractSet[str]) -> bool:
    """Whether a name is another's with a label's word before it, or in place of its first: mask_01 beside img_01."""
    match = _LABEL_BEGINNING.match(name)
    rest = name[match.end() :] if match else ""
    return bool(rest) and (rest in rests or _SEPARATOR.sub("", rest, count=1) in names)


def _rests(names: AbstractSet[str]) -> set[str]:
    """What follows the first word in the names that do not begin with a label's."""
    firsts = [(name, _BEGINNING.match(name)) for name in names if not _LABEL_BEGINNING.match(name)]
    return {name[first.end() :] for name, first in firsts if first}


def _images_by_folder(paths: Sequence[str]) -> dict[PurePath, list[str]]:
    """Names that are not a label's; a DICOM series counts as its folder."""
    found: dict[PurePath, list[str]] = defaultdict(list)
    for path in paths:
        name = case_stem(path)
        if volume_kind(path) == "dicom":
            found[PurePath(parse_volume_path(path).file)].append(name)
        if not is_label_name(name) and image_of_label(name) == name:
            found[PurePath(path).parent].append(name)
    return found


def _is_of(stem: str, name: str) -> bool:
    """Whether a name continues the stem of a label: p1_ct beside p1_seg, but not p10."""
    return name.startswith(stem) and not name[len(stem) : len(stem) + 1].isalnum()
