"""Settings of a training planned from the measures of its scans: one rule a function, no file is read here."""

from vqseg_bundle.planning.decisions import Decision, PlanError
from vqseg_bundle.planning.fingerprint import BodyIntensities, Fingerprint, Machine
from vqseg_bundle.planning.plan import PLANNED_IDS, Plan, make_plan

__all__ = [
    "PLANNED_IDS",
    "BodyIntensities",
    "Decision",
    "Fingerprint",
    "Machine",
    "Plan",
    "PlanError",
    "make_plan",
]
