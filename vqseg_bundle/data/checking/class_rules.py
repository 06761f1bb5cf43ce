"""Rules about classes: which of them labels have, and what their files say about which value means which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import file_list
from ..formats.class_names import misplaced_names
from .facts import CaseFacts, HeaderFacts, LabelFacts
from .findings import Finding

__all__ = ["class_findings", "classes_by_split", "empty_validation", "name_findings", "palette_findings"]

_FEWEST_LABELS = 10  # with fewer, an absent class means nothing
_NEARLY_ALL = 0.9


def class_findings(cases: Sequence[CaseFacts], labels: Mapping[int, str], source: str) -> list[Finding]:
    """Find classes that no label has, and labels without a class that nearly all others have."""
    files = {case.label: case.label_voxels for case in cases if case.label and case.label_voxels}
    present = {file: {value for value, _ in facts.counts if value in labels} for file, facts in files.items()}
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


def classes_by_split(cases: Sequence[CaseFacts], labels: Mapping[int, str], source: str) -> list[Finding]:
    """Find trainings without any structure, and classes of other labels that no training or validation label has.

    Nothing is said of a list of which a label could not be read, and nothing of classes where a list has none at all.
    """
    held = {split: _classes_of(cases, split, labels) for split in ("training", "validation", "test")}
    known = set().union(*(classes or set() for classes in held.values()))
    found = []
    if held["training"] is not None and not held["training"]:
        files = tuple(dict.fromkeys(case.label for case in cases if case.split == "training" and case.label))
        text = f'{source}: no label of "training" has any structure, only background: {file_list(files)}'
        found.append(Finding("empty_training", (source, *files), text, "structures to learn", "only background"))
    for split, code in (("training", "unlearnt_class"), ("validation", "unvalidated_class")):
        classes = held[split]
        for index in sorted(known - classes) if classes else []:
            text = f'{source}: class {index} ("{labels[index]}") is in no label of "{split}", but in others'
            found.append(Finding(code, (source,), text, "a label that has it", "none"))
    return found


def _classes_of(cases: Sequence[CaseFacts], split: str, labels: Mapping[int, str]) -> set[int] | None:
    """The classes that the labels of a list have, without background; None without labels, or if one is unread."""
    facts = [case.label_voxels for case in cases if case.split == split and case.label]
    if not facts or None in facts:
        return None
    return {int(value) for known in facts if known for value, _ in known.counts if value in labels and value}


def empty_validation(cases: Sequence[CaseFacts], labels: Mapping[int, str], source: str) -> list[Finding]:
    """Find validation lists with only background, so that no weights can be selected."""
    files = {case.label: case.label_voxels for case in cases if case.split == "validation" and case.label}
    counts = [value for facts in files.values() if facts for value, _ in facts.counts]
    if not files or None in files.values() or any(value in labels and value != 0 for value in counts):
        return []
    text = f'{source}: no label of "validation" has any structure, only background: {file_list([*files])}'
    return [Finding("empty_validation", tuple(files), text, "structures to select weights by", "only background")]


def palette_findings(cases: Sequence[CaseFacts]) -> list[Finding]:
    """Find masks with a colour that an earlier mask has at another value, once each; only values that occur count.

    A mask without a palette shows its values as greys, 255 as white. Cases need headers and voxels as stored.
    """
    if not any(case.label_header and case.label_header.colors for case in cases):
        return []
    known: dict[str, tuple[float, str]] = {}
    found = []
    for case in cases:
        if case.label is None or case.label_header is None or case.label_voxels is None:
            continue
        used = _colors_of_values(case.label_header, case.label_voxels)
        if len(dict(used)) < len(used):
            continue  # colours that do not tell its own classes apart
        for color, value in used:
            other, file = known.setdefault(color, (value, case.label))
            if other != value:
                what = f"{color} is value {value:g}"
                text = f"{case.label}: {what}, but value {other:g} in {file}"
                found.append(Finding("palettes_differ", (case.label, file), text, f"value {other:g}", what))
                break
    return found


def _colors_of_values(header: HeaderFacts, voxels: LabelFacts) -> list[tuple[str, float]]:
    colors = header.colors or tuple(f"#{grey:02x}{grey:02x}{grey:02x}" for grey in range(256))
    stored = {1.0: 255.0} if voxels.mapped else {}
    values = [value for value, _ in voxels.counts if value is not None]
    return [(colors[int(stored.get(v, v))], v) for v in values if 0 <= stored.get(v, v) < len(colors)]


def name_findings(
    cases: Sequence[CaseFacts], labels: Mapping[int, str], label_values: Mapping[int, int]
) -> list[Finding]:
    """Find labels that state another value of a class than the datalist, once each; cases need headers.

    ``labels`` are names by class index; ``label_values`` class index to the value in label files, empty for indices.
    """
    expected = {label_values.get(index, index): name for index, name in labels.items()}
    headers = {case.label: case.label_header for case in cases if case.label and case.label_header}
    findings = []
    for file, header in headers.items():
        misplaced = misplaced_names(dict(header.class_names), expected)
        if misplaced:
            right = ", ".join(f'value {value} for "{name}"' for name, (value, _) in misplaced.items())
            found = ", ".join(f'value {value} for "{name}"' for name, (_, value) in misplaced.items())
            text = f"{file}: its own names give {found}, the datalist {right}"
            findings.append(Finding("segment_names", (file,), text, right, found))
    return findings
