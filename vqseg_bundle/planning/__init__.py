"""Settings of a training planned from the measures of its scans: one rule a function, no file is read here."""

from vqseg_bundle.planning.decisions import Decision, PlanError
from vqseg_bundle.planning.fingerprint import BodyIntensities, Fingerprint, Machine
from vqseg_bundle.planning.plan import PLANNED_IDS, Plan, make_plan
from vqseg_bundle.planning.time_rules import Pace

__all__ = [
    "PLANNED_IDS",
    "BodyIntensities",
    "Decision",
    "Fingerprint",
    "Machine",
    "Pace",
    "Plan",
    "PlanError",
    "make_plan",
]
