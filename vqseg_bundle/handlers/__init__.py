"""Ignite handlers for training and evaluation."""

from vqseg_bundle.handlers.case_metrics import CaseMetrics, compute_case_metrics
from vqseg_bundle.handlers.checkpoints import (
    BestModelState,
    ModelSaver,
    find_resumable,
    former_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from vqseg_bundle.handlers.code_reliance import CodeRelianceMonitor, DecoderProbe
from vqseg_bundle.handlers.codebook import CodebookMaintenance, CodebookSnapshots, CodebookUsage, codebook_perplexity
from vqseg_bundle.handlers.interruption import PlainErrors, StopOnSignal
from vqseg_bundle.handlers.largest_component import LargestComponentChoice, keep_largest_components
from vqseg_bundle.handlers.mean_case_dice import MeanCaseDice
from vqseg_bundle.handlers.progress_picture import ProgressPicture
from vqseg_bundle.handlers.quality_estimate import DiceEstimate, QualityFit
from vqseg_bundle.handlers.report import ContactSheet, EvaluationReport, Upright, class_colors, find_upright
from vqseg_bundle.handlers.report.evaluation_report import ImageReconstruction
from vqseg_bundle.handlers.resume_checkpoint import ResumeCheckpoint, ResumedSchedule
from vqseg_bundle.handlers.training_hooks import RestartTeacher, RunWhenCompleted, TrainingEstimate, TrainingProgress
from vqseg_bundle.handlers.training_output import (
    LearningWatch,
    PseudoLabelConfidence,
    labeled_prediction,
    loss_terms,
    nonzero_loss_terms,
)

__all__ = [
    "BestModelState",
    "CaseMetrics",
    "CodeRelianceMonitor",
    "CodebookMaintenance",
    "CodebookSnapshots",
    "CodebookUsage",
    "ContactSheet",
    "DecoderProbe",
    "DiceEstimate",
    "EvaluationReport",
    "ImageReconstruction",
    "LargestComponentChoice",
    "LearningWatch",
    "MeanCaseDice",
    "ModelSaver",
    "PlainErrors",
    "ProgressPicture",
    "PseudoLabelConfidence",
    "QualityFit",
    "RestartTeacher",
    "ResumeCheckpoint",
    "ResumedSchedule",
    "RunWhenCompleted",
    "StopOnSignal",
    "TrainingEstimate",
    "TrainingProgress",
    "Upright",
    "class_colors",
    "codebook_perplexity",
    "compute_case_metrics",
    "find_resumable",
    "find_upright",
    "former_checkpoint",
    "keep_largest_components",
    "labeled_prediction",
    "loss_terms",
    "nonzero_loss_terms",
    "read_checkpoint",
    "write_checkpoint",
]
