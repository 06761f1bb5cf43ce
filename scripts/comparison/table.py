"""The numbers of the report, one table per dataset with one row per method: means over seeds and paired tests."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from scipy.stats import ttest_rel

from scripts.comparison.plan import ComparisonPlan, Method
from scripts.comparison.results import METRICS, RunResult, measured
from vqseg_bundle.handlers.metrics import Metric

__all__ = ["DatasetTable", "Row", "Spread", "build_tables", "mean_by_case", "mean_by_patient", "paired_p", "spread"]

Key = TypeVar("Key")


class Spread(NamedTuple):
    """Mean and standard deviation.

    Attributes:
        mean: NaN for no value.
        deviation: of a sample (n - 1); NaN for fewer than two values.
        size: number of values.
    """

    mean: float
    deviation: float
    size: int


def spread(values: Iterable[float]) -> Spread:
    """Mean and standard deviation of the values that are not NaN."""
    counted = [value for value in values if not math.isnan(value)]
    mean = statistics.fmean(counted) if counted else math.nan
    return Spread(mean, statistics.stdev(counted) if len(counted) > 1 else math.nan, len(counted))


def paired_p(first: Mapping[Key, float], second: Mapping[Key, float]) -> float:
    """p value of the paired two-tailed t-test over common keys.

    Args:
        first: value by key, such as a patient or a seed.
        second: the same.

    Returns:
        NaN if undefined: fewer than two pairs, or all differences equal.
    """
    keys = [key for key in first if key in second and not math.isnan(first[key]) and not math.isnan(second[key])]
    differences = [first[key] - second[key] for key in keys]
    # equal up to rounding: the statistic would consist of rounding errors
    if len(keys) < 2 or max(differences) - min(differences) <= 1e-12:
        return math.nan
    return float(ttest_rel([first[key] for key in keys], [second[key] for key in keys]).pvalue)


def mean_by_case(runs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """By case, the mean over the runs with a number for it.

    Args:
        runs: value by case, one mapping per run.
    """
    values: dict[str, list[float]] = {}
    for run in runs:
        for case, value in run.items():
            values.setdefault(case, []).append(value)
    return {case: statistics.fmean(found) for case, found in values.items()}


def mean_by_patient(cases: Mapping[str, float], patients: Mapping[str, str]) -> dict[str, float]:
    """By patient, the mean over the cases: several scans of one patient are not independent, as a test requires.

    Args:
        cases: value by case.
        patients: the patient of each case.
    """
    return mean_by_case({patients[case]: value} for case, value in cases.items())


@dataclass(frozen=True)
class Row:
    """A method on a dataset.

    Attributes:
        method: the method.
        results: results of its finished runs, by seed.
        planned: the seeds of the plan.
        overall: by metric, over seeds.
        classes: by class name and metric, over seeds.
        p_patient: p value of the paired t-test against the reference over patients, each patient's Dice averaged over
            cases and their classes, and over the seeds of both methods; NaN if undefined.
        p_seed: the same over those seeds.
        differences: by case, the Dice so averaged minus the reference's.
        minutes: mean time of a training; NaN without a run.
        labeled: number of labelled patients; None without a run.
        unlabeled: number of unlabelled patients in training; None without a run.
    """

    method: Method
    results: Mapping[int, RunResult]
    planned: tuple[int, ...]
    overall: Mapping[str, Spread]
    classes: Mapping[str, Mapping[str, Spread]]
    p_patient: float
    p_seed: float
    differences: Mapping[str, float]
    minutes: float
    labeled: int | None
    unlabeled: int | None

    @property
    def missing(self) -> tuple[int, ...]:
        """Planned seeds without a finished run."""
        return tuple(seed for seed in self.planned if seed not in self.results)


@dataclass(frozen=True)
class DatasetTable:
    """All methods on a dataset.

    Attributes:
        name: name of the dataset.
        note: the plan's text.
        rows: in the plan's order.
    """

    name: str
    note: str
    rows: tuple[Row, ...]

    @property
    def metrics(self) -> list[Metric]:
        """The metrics measured in any of its runs."""
        return measured(result for row in self.rows for result in row.results.values())


def build_tables(plan: ComparisonPlan, results: Sequence[RunResult]) -> list[DatasetTable]:
    """Aggregate finished runs; methods without any also get a row.

    Raises:
        ValueError: two runs of a dataset evaluated different cases.
    """
    planned: dict[str, dict[str, list[int]]] = {}
    for run in plan.runs():
        planned.setdefault(run.dataset.name, {}).setdefault(run.method.name, []).append(run.seed)
    tables = []
    for name, methods in planned.items():
        found = [result for result in results if result.dataset == name]
        _check_same_cases(name, found)
        by_method = {m: {r.seed: r for r in found if r.method == m} for m in methods}
        reference = by_method.get(plan.reference, {}) if plan.reference else {}
        rows = tuple(
            _row(plan.methods[m], tuple(seeds), by_method[m], {} if m == plan.reference else reference)
            for m, seeds in methods.items()
        )
        tables.append(DatasetTable(name, plan.datasets[name].note, rows))
    return tables


def _check_same_cases(dataset: str, results: Sequence[RunResult]) -> None:
    cases = [{(row.case, row.class_name) for row in result.rows} for result in results]
    for result, found in zip(results, cases, strict=True):
        if found != cases[0]:
            raise ValueError(
                f"dataset '{dataset}': {result.method} seed {result.seed} evaluated other cases or classes than "
                f"{results[0].method} seed {results[0].seed}; move the wrong one out of runs/."
            )


def _row(
    method: Method, planned: tuple[int, ...], results: Mapping[int, RunResult], reference: Mapping[int, RunResult]
) -> Row:
    common = [seed for seed in results if seed in reference]
    ours = mean_by_case(results[seed].case_means("dice") for seed in common)
    theirs = mean_by_case(reference[seed].case_means("dice") for seed in common)
    first = next(iter(results.values()), None)
    patients = first.patients if first else {}
    minutes = [result.record["seconds"].get("training", math.nan) / 60 for result in results.values()]
    return Row(
        method=method,
        results=results,
        planned=planned,
        overall=_spreads([result.overall for result in results.values()]),
        classes={
            name: _spreads([result.classes[name] for result in results.values()])
            for name in (first.classes if first else ())
        },
        p_patient=paired_p(mean_by_patient(ours, patients), mean_by_patient(theirs, patients)),
        p_seed=paired_p(
            {seed: results[seed].overall["dice"] for seed in common},
            {seed: reference[seed].overall["dice"] for seed in common},
        ),
        differences={case: ours[case] - theirs[case] for case in ours if case in theirs},
        minutes=statistics.fmean(minutes) if minutes else math.nan,
        labeled=first.record["labeled"] if first else None,
        unlabeled=first.record["unlabeled"] if first else None,
    )


def _spreads(found: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """By metric, over the runs that measured it."""
    return {metric: spread(values[metric] for values in found if metric in values) for metric in METRICS}
