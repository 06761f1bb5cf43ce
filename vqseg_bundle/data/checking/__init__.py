"""Checks of a cohort before training, evaluation and inference: lists, headers, voxels, duplicates and outliers."""

from .checks import CHECK_LEVELS, CheckedCases, check_cases, check_cohort, examine_cohort
from .findings import FINDING_KINDS, Finding, FindingKind
from .report import CheckReport

__all__ = [
    "CHECK_LEVELS",
    "FINDING_KINDS",
    "CheckReport",
    "CheckedCases",
    "Finding",
    "FindingKind",
    "check_cases",
    "check_cohort",
    "examine_cohort",
]
