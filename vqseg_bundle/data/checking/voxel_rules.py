"""Rules about one file's voxels, and about classes that labels should have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .case_facts import CaseFacts
from .facts import ImageFacts, LabelFacts
from .findings import Finding, file_list

__all__ = ["class_findings", "voxel_findings"]

_MOST_VALUES_SHOWN = 10
_FEWEST_LABELS = 10  # below that, an absent class tells nothing
_NEARLY_ALL = 0.9


def voxel_findings(cases: Sequence[CaseFacts], labels: Mapping[int, str]) -> list[Finding]:
    """Find intensities and label values that cannot be trained on, and files without any content.

    Args:
        cases: with voxels.
        labels: class index to class name.
    """
    found: dict[tuple[str, str], Finding] = {}
    for case in cases:
        for finding in _case_findings(case, labels):
            found[finding.code, finding.files[0]] = finding
    return [*found.values(), *_mapped_masks(cases)]


def class_findings(cases: Sequence[CaseFacts], labels: Mapping[int, str], source: str) -> list[Finding]:
    """Find classes that no label has, and labels that lack a class which nearly all others have.

    Args:
        cases: with voxels.
        labels: class index to class name.
        source: the datalist's path.
    """
    files = {case.label: case.label_voxels for case in cases if case.label and case.label_voxels}
    present = {file: {value for value, _ in facts.counts} for file, facts in files.items()}
    foreground = {file: values for file, values in present.items() if values != {0}}
    found = []
    for index, name in labels.items():
        holders = sum(index in values for values in foreground.values())
        shown = f'{index} ("{name}")'
        if index and foreground and not holders:
            text = f"{source}: class {shown} is in none of {len(files)} labels"
            found.append(Finding("unused_class", (source,), text, "a label that has it", "none"))
        if index and len(foreground) >= _FEWEST_LABELS and _NEARLY_ALL * len(foreground) <= holders:
            for file, values in foreground.items():
                if index not in values:
                    text = f"{file}: class {shown} is absent, {holders} of {len(foreground)} labels have it"
                    found.append(Finding("missing_class", (file,), text, f"class {shown}", "none of it"))
    return found


def _mapped_masks(cases: Sequence[CaseFacts]) -> list[Finding]:
    """One finding for all: it is a note about how files are read."""
    masks = {case.label: case.label_voxels for case in cases if case.label and case.label_voxels}
    files = tuple(file for file, facts in masks.items() if facts.mapped)
    if not files:
        return []
    count = f"{len(files)} mask{'s' if len(files) > 1 else ''} of 0 and 255"
    text = f"255 is read as class 1 in {count}: {file_list(files)}"
    return [Finding("mask_of_255", files, text, "class indices 0, 1, ...", "0 and 255")]


def _case_findings(case: CaseFacts, labels: Mapping[int, str]) -> Iterator[Finding]:
    if case.image_voxels is not None:
        yield from _image_findings(case.image, case.image_voxels)
    if case.label is not None and case.label_voxels is not None:
        yield from _label_findings(case.label, case.label_voxels, labels)


def _image_findings(path: str, facts: ImageFacts) -> Iterator[Finding]:
    if facts.not_finite:
        found = f"{facts.not_finite} of {facts.size} intensities are NaN or infinite"
        yield Finding("not_finite", (path,), f"{path}: {found}", "finite intensities", found)
    elif facts.low == facts.high:
        found = f"all intensities are {facts.low:g}"
        yield Finding("constant_image", (path,), f"{path}: {found}", "contrast", found)


def _label_findings(path: str, facts: LabelFacts, labels: Mapping[int, str]) -> Iterator[Finding]:
    values = [value for value, _ in facts.counts]
    allowed = ", ".join(map(str, labels))
    shown = ", ".join("nan" if value is None else f"{value:g}" for value in values[:_MOST_VALUES_SHOWN])
    more = facts.num_values - _MOST_VALUES_SHOWN
    found = shown + (f" and {more} more" if more > 0 else "")
    if not facts.whole:
        text = f'{path}: values that are not whole numbers of "labels" ({allowed}): found {found}'
        yield Finding("label_not_whole", (path,), text, allowed, found)
    elif facts.num_values > len(values) or any(value not in labels for value in values):
        text = f'{path}: values outside "labels" ({allowed}): found {found}'
        yield Finding("label_values", (path,), text, allowed, found)
    elif values == [0]:
        text = f"{path}: the label is empty (background alone)"
        yield Finding("empty_label", (path,), text, "foreground", "background alone")
