"""Ignite handlers around training and evaluation."""

from vqseg_bundle.handlers.best_model_state import BestModelState
from vqseg_bundle.handlers.case_metrics import CaseMetrics, compute_case_metrics
from vqseg_bundle.handlers.checkpoint_file import find_resumable, read_checkpoint, write_checkpoint
from vqseg_bundle.handlers.codebook_maintenance import CodebookMaintenance
from vqseg_bundle.handlers.codebook_snapshots import CodebookSnapshots
from vqseg_bundle.handlers.codebook_usage import CodebookUsage, codebook_perplexity
from vqseg_bundle.handlers.image_reconstruction import ImageReconstruction
from vqseg_bundle.handlers.learning_watch import LearningWatch
from vqseg_bundle.handlers.mean_case_dice import MeanCaseDice
from vqseg_bundle.handlers.model_saver import ModelSaver
from vqseg_bundle.handlers.progress_bar import TrainingProgress
from vqseg_bundle.handlers.progress_picture import ProgressPicture
from vqseg_bundle.handlers.pseudo_label_confidence import PseudoLabelConfidence
from vqseg_bundle.handlers.report import EvaluationReport, Upright, class_colors, find_upright
from vqseg_bundle.handlers.restart_teacher import RestartTeacher
from vqseg_bundle.handlers.resume_checkpoint import ResumeCheckpoint
from vqseg_bundle.handlers.run_when_completed import RunWhenCompleted
from vqseg_bundle.handlers.training_output import labeled_prediction, loss_terms

__all__ = [
    "BestModelState",
    "CaseMetrics",
    "CodebookMaintenance",
    "CodebookSnapshots",
    "CodebookUsage",
    "EvaluationReport",
    "ImageReconstruction",
    "LearningWatch",
    "MeanCaseDice",
    "ModelSaver",
    "ProgressPicture",
    "PseudoLabelConfidence",
    "RestartTeacher",
    "ResumeCheckpoint",
    "RunWhenCompleted",
    "TrainingProgress",
    "Upright",
    "class_colors",
    "codebook_perplexity",
    "compute_case_metrics",
    "find_resumable",
    "find_upright",
    "labeled_prediction",
    "loss_terms",
    "read_checkpoint",
    "write_checkpoint",
]
