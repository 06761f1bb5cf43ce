"""Refuse a cohort that cannot be trained or evaluated on, before the first step, naming each culprit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from .check_files import check_headers, check_voxels
from .datalist import Cohort, DataError

__all__ = ["CHECK_LEVELS", "check_cases", "check_cohort"]

CHECK_LEVELS = ("headers", "full")
_MOST_PROBLEMS_SHOWN = 20


def check_cohort(
    cohort: Cohort,
    in_channels: int,
    level: str = "full",
    allow_no_labeled: bool = False,
    required_split: str | None = None,
    progress: bool = True,
) -> list[str]:
    """Check all splits of a cohort: the lists first, then every header, and only if these are sound every voxel.

    Args:
        cohort: what to check.
        in_channels: channels that each image must have.
        level: ``"full"``, or ``"headers"`` to skip the voxels.
        allow_no_labeled: whether ``training`` may be empty, as at a federated client with unlabelled data alone.
        required_split: ``"validation"`` or ``"test"``, a split that must have cases, each with a label.
        progress: whether a bar is shown on a terminal.

    Returns:
        Warnings, one a line: findings that do not stop a run.

    Raises:
        DataError: at least one problem; the message lists up to 20 and counts the others.
        ValueError: ``level`` or ``required_split`` is none of the above.
    """
    _require_known("level", level, CHECK_LEVELS)
    if required_split is not None:
        _require_known("required_split", required_split, ("validation", "test"))
    cases = [case for split in cohort.splits().values() for case in split]
    problems = _list_problems(cohort, allow_no_labeled, required_split)
    problems += _cases_in_two_splits(cohort)
    warnings = _cases_listed_twice(cohort)
    return warnings + _check_files(cases, cohort.labels, in_channels, level, progress, problems)


def check_cases(
    cases: Sequence[dict[str, str]],
    labels: dict[int, str],
    in_channels: int,
    level: str = "full",
    progress: bool = False,
) -> list[str]:
    """Check the files of a bare list of cases, such as MONAI Label passes.

    Args:
        cases: dicts with ``image`` and, where there is one, ``label``; other keys are not read.
        labels: class index to class name.
        in_channels: channels that each image must have.
        level: ``"full"``, or ``"headers"`` to skip the voxels.
        progress: whether a bar is shown on a terminal.

    Returns:
        Warnings, one a line.

    Raises:
        DataError: at least one problem, as for :func:`check_cohort`.
        ValueError: ``level`` is unknown.
    """
    _require_known("level", level, CHECK_LEVELS)
    return _check_files(cases, labels, in_channels, level, progress, [])


def _check_files(
    cases: Sequence[dict[str, str]],
    labels: dict[int, str],
    in_channels: int,
    level: str,
    progress: bool,
    problems: list[str],
) -> list[str]:
    _raise_if_any(problems + check_headers(cases, in_channels))
    if level == "headers":
        return []
    found, warnings = check_voxels(cases, labels, progress)
    _raise_if_any(found)
    return warnings


def _list_problems(cohort: Cohort, allow_no_labeled: bool, required_split: str | None) -> list[str]:
    problems = []
    if not cohort.training and not allow_no_labeled:
        problems.append(f'{cohort.source}: no labelled cases; "training" needs at least one image with its label.')
    if not any(cohort.splits().values()):
        problems.append(f"{cohort.source}: no cases at all; list some.")
    if required_split is None:
        return problems
    remedy = f'list labelled cases under "{required_split}", or set evaluation_split to a split that has them'
    cases = cohort.splits()[required_split]
    if not cases:
        problems.append(f'{cohort.source}: evaluation_split is "{required_split}", which is empty; {remedy}.')
    problems += [
        f'{case["image"]}: no label, but evaluation_split is "{required_split}"; {remedy}.'
        for case in cases
        if "label" not in case
    ]
    return problems


def _cases_in_two_splits(cohort: Cohort) -> list[str]:
    images, patients = _splits_by(cohort, "image"), _splits_by(cohort, "patient")
    problems, seen = [], set()
    for image, splits in images.items():
        if len(set(splits)) > 1:
            problems.append(f"{image}: listed under {_and(splits)}; a case may be in one split alone.")
            seen.add(image)
    for patient, splits in patients.items():
        files = {_resolved(c["image"]) for cases in cohort.splits().values() for c in cases if c["patient"] == patient}
        if len(set(splits)) > 1 and not files & seen:
            problems.append(
                f'patient "{patient}" is in {_and(splits)} ({", ".join(sorted(files))}); keep all cases of a patient '
                "in one split."
            )
    return problems


def _cases_listed_twice(cohort: Cohort) -> list[str]:
    return [
        f'{image}: listed {len(splits)} times under "{splits[0]}".'
        for image, splits in _splits_by(cohort, "image").items()
        if len(splits) > 1
    ]


def _splits_by(cohort: Cohort, key: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for split, cases in cohort.splits().items():
        for case in cases:
            found[_resolved(case[key]) if key == "image" else case[key]].append(split)
    return dict(found)


def _resolved(path: str) -> str:
    return str(Path(path).resolve())


def _and(splits: Iterable[str]) -> str:
    return " and ".join(f'"{split}"' for split in dict.fromkeys(splits))


def _raise_if_any(problems: Sequence[str]) -> None:
    if not problems:
        return
    more = len(problems) - _MOST_PROBLEMS_SHOWN
    lines = [f"- {problem}" for problem in problems[:_MOST_PROBLEMS_SHOWN]]
    lines += [f"... and {more} more."] if more > 0 else []
    found = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise DataError("\n".join([f"The data have {found}:", *lines]))


def _require_known(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
