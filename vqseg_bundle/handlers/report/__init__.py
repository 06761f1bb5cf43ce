"""The evaluation as one page: tables, distributions, pictures of cases, and how to repeat it."""

from vqseg_bundle.handlers.report.case_slice import Upright, find_upright
from vqseg_bundle.handlers.report.evaluation_report import EvaluationReport
from vqseg_bundle.handlers.report.pictures import class_colors

__all__ = ["EvaluationReport", "Upright", "class_colors", "find_upright"]
