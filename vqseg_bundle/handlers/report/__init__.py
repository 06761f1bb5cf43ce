"""Pages that open offline: an evaluation, the volumes of an inference, and the choice of scans to label."""

from vqseg_bundle.handlers.report.case_slice import Upright, find_upright, middle_slice
from vqseg_bundle.handlers.report.choice_page import ShownPatient, render_choice
from vqseg_bundle.handlers.report.contact_sheet import ContactSheet
from vqseg_bundle.handlers.report.evaluation_report import EvaluationReport
from vqseg_bundle.handlers.report.pictures import class_colors

__all__ = [
    "ContactSheet",
    "EvaluationReport",
    "ShownPatient",
    "Upright",
    "class_colors",
    "find_upright",
    "middle_slice",
    "render_choice",
]
