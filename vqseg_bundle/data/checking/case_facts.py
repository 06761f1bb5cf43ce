"""A case with the facts about its files, which all rules use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .facts import Facts, HeaderFacts, ImageFacts, LabelFacts

__all__ = ["CaseFacts", "gather_cases", "with_class_indices"]


@dataclass(frozen=True)
class CaseFacts:
    """A case and the facts of its files; None stands for no such file, an unreadable one, or one not looked at.

    ``split`` is empty for a bare list of cases, ``patient`` where it is unknown; ``image`` and ``label`` are paths.
    """

    split: str
    image: str
    patient: str
    label: str | None = None
    image_header: HeaderFacts | None = None
    label_header: HeaderFacts | None = None
    image_voxels: ImageFacts | None = None
    label_voxels: LabelFacts | None = None


def gather_cases(
    splits: Mapping[str, Sequence[Mapping[str, str]]], facts: Mapping[tuple[str, str], Facts]
) -> list[CaseFacts]:
    """Join cases by split (dicts with ``image``, perhaps ``label`` and ``patient``) to facts by path and kind."""
    found = []
    for split, cases in splits.items():
        for case in cases:
            image, label = case["image"], case.get("label")
            parts = {
                "image_header": facts.get((image, "header")),
                "image_voxels": facts.get((image, "image")),
                "label_header": facts.get((label, "header")) if label else None,
                "label_voxels": (facts.get((label, "label")) or facts.get((label, "values"))) if label else None,
            }
            found.append(CaseFacts(split, image, case.get("patient", ""), label, **parts))  # type: ignore[arg-type]
    return found


def with_class_indices(cases: Sequence[CaseFacts], label_values: Mapping[int, int]) -> list[CaseFacts]:
    """The same cases with class indices in place of label values (``label_values``: index to value), others dropped."""
    indices = {value: index for index, value in label_values.items()}
    if not indices:
        return list(cases)
    found = []
    for case in cases:
        voxels = case.label_voxels
        if voxels is not None:
            counts = [(float(indices[int(v)]), n) for v, n in voxels.counts if v is not None and v in indices]
            voxels = replace(voxels, counts=tuple(sorted(counts)))
        found.append(replace(case, label_voxels=voxels))
    return found
