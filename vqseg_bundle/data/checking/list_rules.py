"""Rules about which files are listed where: by name, without opening them, and by identical voxels."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence

from ..cohorts.datalist import LEARNED_SPLITS, Cohort
from ..cohorts.frames_apart import find_frames_apart
from ..errors import file_list
from ..formats.volume_path import channel_paths
from .facts import CaseFacts
from .findings import Finding

__all__ = ["duplicate_findings", "list_findings"]


def list_findings(cohort: Cohort, allow_no_labeled: bool, required_split: str | None) -> list[Finding]:
    """Find lists that lack cases, and files and patients listed where they must not be."""
    return [
        *_lacking(cohort, allow_no_labeled, required_split),
        *([] if required_split else _validation_without_label(cohort)),
        *_images_as_labels(cohort),
        *_files_in_two_splits(cohort),
        *_similar_patients(cohort),
        *_frames_apart(cohort),
        *_listed_twice(cohort),
        *_shared_labels(cohort),
    ]


def _lacking(cohort: Cohort, allow_no_labeled: bool, required_split: str | None) -> list[Finding]:
    source, found = cohort.source, []
    if not cohort.training and not allow_no_labeled:
        text = f'{source}: no labelled cases; "training" needs at least one image with its label'
        found.append(Finding("no_labeled_cases", (source,), text, "labelled cases", "none"))
    if not any(cohort.splits().values()):
        found.append(Finding("no_cases", (source,), f"{source}: no cases at all", "cases", "none"))
    if required_split is None:
        return found
    cases = cohort.splits()[required_split]
    bare = tuple(case["image"] for case in cases if "label" not in case)
    is_split, expected = f'evaluation_split is "{required_split}"', "labelled cases"
    if len(bare) == len(cases):
        what = f"of which none of {len(cases)} cases has a label" if cases else "which is empty"
        remedy = f'list labelled cases under "{required_split}", or set evaluation_split to a split that has them'
        text = f"{source}: {is_split}, {what}"
        found.append(Finding("evaluation_split", (source,), text, expected, "none", remedy))
    elif bare:
        without = "1 case has" if len(bare) == 1 else f"{len(bare)} cases have"
        text = f"{source}: {is_split}, of which {without} no label and cannot be evaluated: {file_list(bare)}"
        found.append(Finding("not_evaluated", bare, text, expected, f"{len(bare)} of {len(cases)} without"))
    return found


def _validation_without_label(cohort: Cohort) -> list[Finding]:
    """One finding for all; a training cannot validate on them, an evaluation of another split does not read them."""
    bare = tuple(case["image"] for case in cohort.validation if "label" not in case)
    if not bare:
        return []
    without = "1 case has" if len(bare) == 1 else f"{len(bare)} cases have"
    text = f'{cohort.source}: "validation" is what weights are selected by, but {without} no label: {file_list(bare)}'
    found = f"{len(bare)} of {len(cohort.validation)} without"
    return [Finding("validation_without_label", bare, text, "a label for each case", found)]


def _images_as_labels(cohort: Cohort) -> list[Finding]:
    return [
        Finding(
            "image_as_label",
            (case["label"],),
            f"{case['label']}: named as the label of {case['image']}, which is the same file",
            "a file of class indices",
            "the image itself",
        )
        for cases in cohort.splits().values()
        for case in cases
        if "label" in case and _resolved(case["label"]) in _files(case["image"])
    ]


def _files_in_two_splits(cohort: Cohort) -> list[Finding]:
    images, patients, files = _splits_by(cohort, "image"), _splits_by(cohort, "patient"), _files_by_patient(cohort)
    found, seen = [], set()
    for image, splits in images.items():
        if len(set(splits)) > 1:
            text = f"{image}: listed under {_and(splits)}"
            found.append(Finding("image_in_two_splits", (image,), text, "one split", _and(splits)))
            seen.add(image)
    for patient, splits in patients.items():
        if len(set(splits)) > 1 and not set(splits) <= set(LEARNED_SPLITS) and not set(files[patient]) & seen:
            paths = tuple(files[patient])
            text = f'patient "{patient}" is in {_and(splits)} ({file_list(paths)})'
            found.append(Finding("patient_in_two_splits", paths, text, "one split", _and(splits)))
    return found


def _similar_patients(cohort: Cohort) -> list[Finding]:
    """Patients whose names differ in upper and lower case alone, of whom some are learnt from and others held out."""
    lists: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for patient, splits in _splits_by(cohort, "patient").items():
        lists[patient.casefold()][patient] = splits
    found = []
    for names in lists.values():
        learned = [{split in LEARNED_SPLITS for split in splits} for splits in names.values()]
        if len(names) > 1 and len(set().union(*learned)) > 1:
            shown = ", ".join(f'"{name}" in {_and(splits)}' for name, splits in names.items())
            text = f"{cohort.source}: the names of patients differ in upper and lower case alone: {shown}"
            found.append(Finding("similar_patients", (cohort.source,), text, "one name for each patient", shown))
    return found


def _frames_apart(cohort: Cohort) -> list[Finding]:
    listed = [(split, case) for split, cases in cohort.splits().items() for case in cases if "case" in case]
    own = [(split, case["case"]) for split, case in listed if case.get("patient") == case["case"]]
    apart = find_frames_apart(own)
    if apart is None:
        return []
    text = f"{cohort.source}: slices or frames that seem to be of one patient count as patients of their own, and some"
    text += f" are learnt from, others evaluated on: {apart.shown}"
    remedy = (
        'if they are, name the "patient" of each entry, or make the datalist again by vqseg data --patient-pattern '
        f"'{apart.pattern}'"
    )
    return [Finding("frames_apart", (cohort.source,), text, "one list for each patient", apart.shown, remedy)]


def _listed_twice(cohort: Cohort) -> list[Finding]:
    return [
        Finding(
            "listed_twice",
            (image,),
            f'{image}: listed {len(splits)} times under "{splits[0]}"',
            "listed once",
            f"{len(splits)} times",
        )
        for image, splits in _splits_by(cohort, "image").items()
        if len(splits) > 1 and len(set(splits)) == 1
    ]


def _shared_labels(cohort: Cohort) -> list[Finding]:
    images: dict[str, dict[str, None]] = defaultdict(dict)
    for cases in cohort.splits().values():
        for case in cases:
            if "label" in case:
                images[_resolved(case["label"])][_resolved(case["image"])] = None
    return [
        Finding(
            "identical_labels",
            (label, *of),
            f"{label}: named as the label of {len(of)} images ({file_list(list(of))})",
            "a label of its own for each image",
            f"one for {len(of)} images",
        )
        for label, of in images.items()
        if len(of) > 1
    ]


def _splits_by(cohort: Cohort, key: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for split, cases in cohort.splits().items():
        for case in cases:
            for name in _files(case[key]) if key == "image" else [case[key]]:
                found[name].append(split)
    return dict(found)


def _files_by_patient(cohort: Cohort) -> dict[str, list[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for cases in cohort.splits().values():
        for case in cases:
            found[case["patient"]].update(_files(case["image"]))
    return {patient: sorted(files) for patient, files in found.items()}


def _files(image: str) -> list[str]:
    """All files of images with channels in separate files, each once."""
    return list(dict.fromkeys(_resolved(channel) for channel in channel_paths(image)))


def _resolved(path: str) -> str:
    return os.path.realpath(path)  # unlike Path.resolve, without an error for a link to itself


def _and(splits: Iterable[str]) -> str:
    return " and ".join(f'"{split}"' for split in dict.fromkeys(splits))


def duplicate_findings(cases: Sequence[CaseFacts]) -> list[Finding]:
    """Find images and labels with the same voxels under different names; rotated or resampled copies are not found."""
    images: dict[str, list[CaseFacts]] = defaultdict(list)
    for case in cases:
        # images without contrast say nothing about their origin
        if case.image_voxels and case.image_voxels.digest and case.image_voxels.low < case.image_voxels.high:
            images[case.image_voxels.digest].append(case)
    groups = [_unique(group) for group in images.values()]
    return [_image_finding(group) for group in groups if len(group) > 1] + _identical_labels(cases)


def _image_finding(group: Sequence[CaseFacts]) -> Finding:
    files, splits = tuple(case.image for case in group), list(dict.fromkeys(case.split for case in group))
    listed = f"{file_list(files)} (in {', '.join(filter(None, splits))})" if any(splits) else file_list(files)
    digests = {case.label_voxels.digest for case in group if case.label_voxels}
    if len(splits) > 1 and not set(splits) <= set(LEARNED_SPLITS):
        code, text = "leaked_image", f"identical images in different splits: {listed}"
    elif len(digests) > 1:
        code, text = "conflicting_labels", f"identical images, but different annotations: {listed}"
    elif len(splits) > 1:
        code, text = "labeled_and_unlabeled", f"identical images, labelled and unlabelled: {listed}"
    else:
        code, text = "identical_images", f"identical images: {file_list(files)}"
    return Finding(code, files, text, "different images", f"{len(files)} files of identical voxels")


def _identical_labels(cases: Sequence[CaseFacts]) -> list[Finding]:
    groups: dict[str, list[CaseFacts]] = defaultdict(list)
    for case in cases:
        facts = case.label_voxels
        if facts and case.label and case.image_voxels and facts.num_values > 1:
            groups[facts.digest].append(case)
    found = []
    for group in groups.values():
        files = tuple(dict.fromkeys(case.label for case in group if case.label))
        images = {case.image_voxels.digest for case in group if case.image_voxels}
        if len(files) > 1 and len(images) > 1:
            text = f"identical labels of different images: {file_list(files)}"
            found.append(Finding("identical_labels", files, text, "different labels", f"{len(files)} identical ones"))
    return found


def _unique(cases: Sequence[CaseFacts]) -> list[CaseFacts]:
    """Drop repeated entries of a file, which the rules about lists report, and sort by name."""
    unique = {os.path.realpath(case.image): case for case in cases}
    return sorted(unique.values(), key=lambda case: case.image)
