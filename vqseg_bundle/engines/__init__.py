"""The semi-supervised engine: trainer, teacher, pseudo-labellers, unlabelled streams and schedules."""

from vqseg_bundle.engines.copy_paste import CopyPaste
from vqseg_bundle.engines.ema_teacher import EMATeacher
from vqseg_bundle.engines.inferers import AveragedInferer, CodebookInferer, voxel_entropy, window_inferer
from vqseg_bundle.engines.largest_component_labeler import LargestComponentLabeler
from vqseg_bundle.engines.monte_carlo_teacher import MonteCarloTeacher
from vqseg_bundle.engines.pseudo_labels import PseudoLabeler, PseudoLabels, StudentPseudoLabeler
from vqseg_bundle.engines.schedules import iteration_budget, sigmoid_ramp_up
from vqseg_bundle.engines.semi_supervised_trainer import SemiSupervisedTrainer
from vqseg_bundle.engines.unimatch_cut_mix import UniMatchCutMix
from vqseg_bundle.engines.unlabeled_streams import STRONG, STRONG_2, UnlabeledStream, parse_streams
from vqseg_bundle.engines.window_batch import window_batch_size

__all__ = [
    "STRONG",
    "STRONG_2",
    "AveragedInferer",
    "CodebookInferer",
    "CopyPaste",
    "EMATeacher",
    "LargestComponentLabeler",
    "MonteCarloTeacher",
    "PseudoLabeler",
    "PseudoLabels",
    "SemiSupervisedTrainer",
    "StudentPseudoLabeler",
    "UniMatchCutMix",
    "UnlabeledStream",
    "iteration_budget",
    "parse_streams",
    "sigmoid_ramp_up",
    "voxel_entropy",
    "window_batch_size",
    "window_inferer",
]
