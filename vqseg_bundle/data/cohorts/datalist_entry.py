"""An entry of a datalist, ``{"image", "label", "patient"?, "series"?}``, and what else its keys may be meant to be."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..formats.volume_path import channel_paths, join_channels, join_volume_path
from ..layouts.found_case import stated_patient

__all__ = ["kind_of", "parse_entry"]

_KEYS = ("image", "label", "patient", "series")
_PATIENT_ELSEWHERE = ("patientid", "subject", "subjectid")
_ALIKE = 0.8  # a letter too many, missing or in the wrong place


def parse_entry(entry: object, where: str, split: str, root: Path) -> dict[str, str]:
    """A case with absolute paths: ``image``, and ``label`` and ``patient`` if it has them.

    ``where`` names the entry in messages. DataError: it is not of the expected form.
    """
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict):
        raise DataError(f'{where}: expected {{"image": path, ...}}, found {kind_of(entry)}.')
    _refuse_misspelt(entry, where)
    image, label, patient, series = (entry.get(key) for key in _KEYS)
    images: list[Any] = image if isinstance(image, list) else [image]
    if not images or not all(isinstance(path, str) and path for path in images):
        raise DataError(
            f'{where}: expected the path of one volume under "image", or a list of one path a channel, found {image!r}.'
        )
    if label is not None and not isinstance(label, str):
        raise DataError(f'{where} ({image}): expected the path of one volume under "label", found {kind_of(label)}.')
    patient_id = "" if patient is None else stated_patient(patient)
    if patient_id is None:
        raise DataError(f'{where} ({image}): expected an id under "patient", found {kind_of(patient)}.')
    if series is not None and not isinstance(series, str):
        raise DataError(f'{where} ({image}): expected a SeriesInstanceUID under "series", found {kind_of(series)}.')
    for path in (*images, *filter(None, [label])):
        if not _can_be_a_name(path):
            raise DataError(f"{where}: expected paths that files can have, found {path!r}.")
    if split == "training" and not label:
        raise DataError(f'{where} ({image}): a training case needs a "label"; move cases without one to "unlabeled".')
    if series and len(images) > 1:
        raise DataError(f'{where}: "series" names one DICOM series, found {len(images)} paths under "image".')
    # cases that were parsed before, such as those of another cohort, have their channels in one string
    channels = [_absolute(root, channel) for path in images for channel in channel_paths(_absolute(root, path))]
    case = {"image": join_channels(join_volume_path(channel, series or "") for channel in channels)}
    if label and split != "unlabeled":
        case["label"] = _absolute(root, label)
    if patient_id:
        case["patient"] = patient_id
    return case


def _can_be_a_name(path: str) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _refuse_misspelt(entry: Mapping[str, Any], where: str) -> None:
    """Refuse keys such as ``Label`` and ``patient_id``, without which a case would silently be another one."""
    for key in entry:
        meant = "" if key in _KEYS else _meant(key, [known for known in _KEYS if known not in entry])
        if meant:
            raise DataError(
                f'{where}: unknown key "{key}"; did you mean "{meant}"? Correct it, or rename what is something else.'
            )


def _meant(key: object, absent: Iterable[str]) -> str:
    plain = str(key).casefold().strip()  # lists of a configuration in YAML may have other keys
    if "patient" in absent and plain.replace("_", "").replace("-", "").replace(" ", "") in _PATIENT_ELSEWHERE:
        return "patient"
    # labelled and patient_age are other words, labels is not
    candidates = [known for known in absent if not plain.startswith(known) or len(plain) <= len(known) + 1]
    return next(iter(difflib.get_close_matches(plain, candidates, n=1, cutoff=_ALIKE)), "")


def _absolute(root: Path, path: str) -> str:
    # abspath, not resolve: a link keeps the name that the user knows
    return os.path.abspath(root / Path(path).expanduser())  # noqa: PTH100


def kind_of(value: object) -> str:
    """What a value of a JSON file is, for messages."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")
