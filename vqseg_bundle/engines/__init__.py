"""The semi-supervised engine: trainer, teacher and schedules."""

from vqseg_bundle.engines.ema_teacher import EMATeacher, PseudoLabels
from vqseg_bundle.engines.schedules import iteration_budget, sigmoid_ramp_up
from vqseg_bundle.engines.semi_supervised_trainer import STRONG, SemiSupervisedTrainer

__all__ = ["STRONG", "EMATeacher", "PseudoLabels", "SemiSupervisedTrainer", "iteration_budget", "sigmoid_ramp_up"]
