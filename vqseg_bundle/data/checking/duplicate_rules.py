"""Rules about files of different names that hold the same voxels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..errors import file_list
from .case_facts import CaseFacts
from .findings import Finding
from .list_rules import LEARNED_SPLITS

__all__ = ["duplicate_findings"]


def duplicate_findings(cases: Sequence[CaseFacts]) -> list[Finding]:
    """Find images, and labels, that are the same under different names; turned or resampled copies are not seen.

    Args:
        cases: with voxels.
    """
    images: dict[str, list[CaseFacts]] = defaultdict(list)
    for case in cases:
        # images without contrast say nothing of where they come from
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
    """Leave out further entries of one file, which the rules about lists report, and order by name."""
    unique = {Path(case.image).resolve(): case for case in cases}
    return sorted(unique.values(), key=lambda case: case.image)
