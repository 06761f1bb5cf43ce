"""Refuse a cohort that cannot be used for training or evaluation, before the first step, naming each fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..cohorts.datalist import Cohort, DataError
from .class_rules import class_findings, classes_by_split, empty_validation, name_findings, palette_findings
from .collect import FactsCache, cache_path, collect_facts
from .facts import CaseFacts, Facts, gather_cases, with_class_indices
from .file_rules import header_findings, voxel_findings
from .findings import FINDING_KINDS, Finding
from .list_rules import duplicate_findings, list_findings
from .outlier_rules import geometry_outliers, turned_images, voxel_outliers
from .report import CheckReport, summarize_cohort

__all__ = ["CHECK_LEVELS", "CheckedCases", "check_cases", "check_cohort", "examine_cohort", "require_sound"]

CHECK_LEVELS = ("headers", "full")
_MOST_PROBLEMS_SHOWN = 20
_MOST_WARNINGS_SHOWN = 5  # of one code

_Splits = Mapping[str, Sequence[Mapping[str, str]]]


@dataclass(frozen=True)
class CheckedCases:
    """What :func:`check_cases` finds: cases without an error, a line per error of the others, and warnings."""

    sound: list[Mapping[str, str]]
    errors: list[str]
    warnings: list[str]


def check_cohort(
    cohort: Cohort,
    in_channels: int,
    level: str = "full",
    allow_no_labeled: bool = False,
    required_split: str | None = None,
    progress: bool = True,
    use_cache: bool = True,
    clipped: bool = False,
) -> list[str]:
    """Check all splits of a cohort: the lists, every header, and every voxel that can be read.

    Args:
        cohort: the cohort.
        in_channels: channels that each image must have.
        level: ``"full"``, or ``"headers"`` to skip the voxels.
        allow_no_labeled: whether ``training`` may be empty, as at a federated client with only unlabelled data.
        required_split: ``"validation"`` or ``"test"``, a split that must have labelled cases.
        progress: whether a bar is shown on a terminal.
        use_cache: whether files unchanged since an earlier check are taken from the user's cache folder.
        clipped: whether intensities are clipped to a window (``intensity_window``), so that no value is too far off.

    Returns:
        Warnings, one per line, which do not stop a run; of each kind the first five, and a count.

    Raises:
        DataError: at least one problem; the message lists up to 20 and counts the others.
        ValueError: unknown ``level`` or ``required_split``.
    """
    report = examine_cohort(cohort, in_channels, level, allow_no_labeled, required_split, progress, use_cache, clipped)
    return require_sound(report)


def examine_cohort(
    cohort: Cohort,
    in_channels: int,
    level: str = "full",
    allow_no_labeled: bool = False,
    required_split: str | None = None,
    progress: bool = True,
    use_cache: bool = True,
    clipped: bool = False,
) -> CheckReport:
    """Check all splits of a cohort and report everything, errors included; arguments as for :func:`check_cohort`."""
    _require_known("level", level, CHECK_LEVELS)
    if required_split is not None:
        _require_known("required_split", required_split, ("validation", "test"))
    found = list_findings(cohort, allow_no_labeled, required_split)
    splits = cohort.splits()
    options = (in_channels, level, progress, use_cache, clipped)
    cases, problems = _examine_files(splits, cohort.indices, cohort.label_values, *options)
    cases = with_class_indices(cases, cohort.label_values)
    found += problems + geometry_outliers(cases) + turned_images(cases)
    if any(case.image_voxels or case.label_voxels for case in cases):
        found += class_findings(cases, cohort.labels, cohort.source) + voxel_outliers(cases, cohort.labels)
        if not required_split:
            found += empty_validation(cases, cohort.labels, cohort.source)
            found += classes_by_split(cases, cohort.labels, cohort.source)
    summary = summarize_cohort(cohort.name, cases, cohort.labels)
    return CheckReport(cohort.source, level, _sorted(found), summary, cases)


def require_sound(report: CheckReport) -> list[str]:
    """The warnings of a report, one per line: of each kind the first five, and a count.

    Raises:
        DataError: at least one problem; the message lists up to 20 and counts the others.
    """
    _raise_if_any(report.errors)
    return _warning_lines(report.warnings)


def check_cases(
    cases: Sequence[Mapping[str, str]],
    labels: dict[int, str],
    in_channels: int,
    level: str = "full",
    progress: bool = False,
    use_cache: bool = True,
    clipped: bool = False,
) -> CheckedCases:
    """Check the files of a bare list of cases, each by itself, and tell the sound ones from the others.

    Arguments as for :func:`check_cohort`, but ``cases`` are dicts with ``image`` and perhaps ``label``, and ``labels``
    are class names by index. DataError: no case is sound.
    """
    _require_known("level", level, CHECK_LEVELS)
    _, found = _examine_files({"": cases}, labels, {}, in_channels, level, progress, use_cache, clipped)
    errors = [finding for finding in _sorted(found) if finding.severity == "error"]
    at_fault = {file for error in errors for file in error.files}
    sound = [case for case in cases if not {case["image"], case.get("label")} & at_fault]
    if not sound:
        _raise_if_any(errors)
    warnings = [finding for finding in _sorted(found) if finding.severity == "warning"]
    return CheckedCases(sound, [error.message for error in errors], _warning_lines(warnings))


def _examine_files(
    splits: _Splits,
    labels: Mapping[int, str],
    label_values: Mapping[int, int],
    in_channels: int,
    level: str,
    progress: bool,
    use_cache: bool,
    clipped: bool,
) -> tuple[list[CaseFacts], list[Finding]]:
    """Read what the level requires and apply the rules about single cases and duplicates."""
    files = [
        (case[key], key) for cases in splits.values() for case in cases for key in ("image", "label") if key in case
    ]
    cache = FactsCache(cache_path(file for file, _ in files) if use_cache and files else None)
    facts: dict[tuple[str, str], Facts] = {}
    headers, found = collect_facts(((file, "header") for file, _ in files), cache, progress, "checking headers")
    facts.update(headers)
    if level == "full":
        # voxels can be read even if the header's spacing is wrong
        unreadable = {finding.files[0] for finding in found if finding.code != "invalid_spacing"}
        kinds = {"image": "image", "label": "values" if label_values else "label"}
        readable = [(file, kinds[key]) for file, key in files if file not in unreadable]
        voxels, problems = collect_facts(readable, cache, progress, "checking voxels")
        facts.update(voxels)
        found += problems
    cases = gather_cases(splits, facts)
    found += header_findings(cases, in_channels) + name_findings(cases, labels, label_values)
    if level == "full":
        found += voxel_findings(cases, labels, clipped, label_values) + palette_findings(cases)
        found += duplicate_findings(cases)
    cache.save()
    return cases, found


def _sorted(findings: Iterable[Finding]) -> list[Finding]:
    order = {code: place for place, code in enumerate(FINDING_KINDS)}
    return sorted(findings, key=lambda finding: (finding.severity != "error", order[finding.code]))


def _warning_lines(findings: Sequence[Finding]) -> list[str]:
    seen: Counter[str] = Counter()
    lines = []
    for finding in findings:
        seen[finding.code] += 1
        if seen[finding.code] <= _MOST_WARNINGS_SHOWN:
            lines.append(finding.message)
    for code, count in seen.items():
        if count > _MOST_WARNINGS_SHOWN:
            more, meaning = count - _MOST_WARNINGS_SHOWN, FINDING_KINDS[code].meaning
            lines.append(f"... and {more} more of this kind: {meaning}; `vqseg check` lists all.")
    return lines


def _raise_if_any(problems: Sequence[Finding]) -> None:
    if not problems:
        return
    more = len(problems) - _MOST_PROBLEMS_SHOWN
    lines = [f"- {problem.message}" for problem in problems[:_MOST_PROBLEMS_SHOWN]]
    lines += [f"... and {more} more."] if more > 0 else []
    found = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise DataError("\n".join([f"The data have {found}:", *lines]))


def _require_known(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
