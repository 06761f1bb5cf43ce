"""The evaluation as one page to look at: tables, distributions, pictures of cases, and how to repeat it."""

from vqseg_bundle.handlers.report.evaluation_report import EvaluationReport

__all__ = ["EvaluationReport"]
