"""From the trainer's output: loss terms, predictions, confidence of pseudo-labels, and a lack of learning."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from vqseg_bundle.common import process_count, process_rank
from vqseg_bundle.handlers.metrics import without_ignored

__all__ = ["LearningWatch", "PseudoLabelConfidence", "labeled_prediction", "loss_terms", "nonzero_loss_terms"]
logger = logging.getLogger(__name__)
_ONE_CLASS = (
    "epoch %d: the pseudo-labels of all unlabelled images are of one class, %d: the student is taught that nothing "
    "else exists. See whether labelled and unlabelled images look alike (slice axis, intensities), whether the "
    "labelled ones show every class, and whether loss_labeled_segmentation falls; else lower lambda_u, or raise "
    "ramp_up_share."
)
_NO_LOSS = (
    "epoch %d: the loss on unlabelled images was 0 throughout, so that nothing is learnt from them. See lambda_u, and "
    "whether the pseudo-labels are sure enough for the loss."
)
_UNSURE = (
    "epoch %d: %.2g %% of the pseudo-labels are as sure as confidence_threshold asks, so that next to nothing is "
    "learnt from unlabelled images. Lower confidence_threshold towards their mean confidence, now %.2f "
    "(pseudo_label_confidence in progress.csv); if loss_labeled_segmentation still falls, raise max_iterations."
)
_FEW_CODES = (
    "epoch %d: %.1f %% of the codebook were used, so that images are told by few codes. Raise lambda_entropy, lower "
    "codebook_maintenance#patience, or give fewer codes (network_def#num_embeddings)."
)
_IDLE_CODES = (
    "epoch %d: with another image's codes, %.1f %% of the prediction change: the decoder goes by its skip connections, "
    "so that neither codebook nor perturbation matter. Put the codes above the bottleneck (network_def#code_level), or "
    "take skip connections away (network_def#skip_connections)."
)


def loss_terms(output: dict[str, Any]) -> dict[str, float]:
    """Every loss term of an iteration's output, under "loss_<term>"."""
    return {f"loss_{name}": value.item() for name, value in output["terms"]._asdict().items()}


def nonzero_loss_terms(output: dict[str, Any]) -> dict[str, float]:
    """The loss terms without "loss_", for the log; those that are off, and thus exactly 0, are left out."""
    return {name.removeprefix("loss_"): value for name, value in loss_terms(output).items() if value}


def labeled_prediction(output: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Prediction and label of the labelled batch as class indices, ``(B, 1, *S)`` each; background where ignored.

    Args:
        output: ``engine.state.output`` of the semi-supervised trainer.
    """
    logits = output[Keys.PRED].detach()
    return without_ignored(logits.argmax(dim=1, keepdim=True), output[Keys.LABEL].unsqueeze(1), logits.shape[1])


class PseudoLabelConfidence:
    """Mean confidence of the pseudo-labels of an epoch, and the share of their pixels above a threshold.

    At the end of an epoch ``engine.state.metrics`` gets "pseudo_label_confidence" and "pseudo_label_share", means over
    its iterations and all processes. Read from ``engine.state.output["pseudo_labels"]``, before mixing: labels that are
    pasted into unlabelled images are certain.

    Args:
        threshold: confidence threshold, in [0, 1].
        device: where to accumulate; the training's device avoids a wait in each iteration.

    Raises:
        ValueError: ``threshold`` outside [0, 1].
    """

    def __init__(self, threshold: float = 0.95, device: str | torch.device = "cpu") -> None:
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}.")
        self.threshold = threshold
        self.device = torch.device(device)

    def attach(self, engine: Engine) -> None:
        """Attach to a semi-supervised trainer with unlabelled data."""
        Average(self._mean, self.device).attach(engine, "pseudo_label_confidence")
        Average(self._share, self.device).attach(engine, "pseudo_label_share")

    def _mean(self, output: dict[str, Any]) -> Tensor:
        return output["pseudo_labels"].confidence.mean()

    def _share(self, output: dict[str, Any]) -> Tensor:
        return (output["pseudo_labels"].confidence >= self.threshold).float().mean()


class LearningWatch:
    """Warn, at most once each, of five ways in which a training is futile.

    It considers complete epochs that begin after some iterations, never the first: pseudo-labels of a single class in
    all images of an epoch; too few that are confident, by "pseudo_label_share" of :class:`PseudoLabelConfidence`; an
    unlabelled loss of exactly 0 over an epoch; too small a share of the codebook in use, by "codebook_usage" of
    :class:`CodebookUsage`; and predictions that ignore the codes, by "code_reliance" of :class:`CodeRelianceMonitor`.
    Attach these three first, and this on every process; the first process warns of what is true for all.

    Args:
        unlabeled_after: iterations before the unlabelled terms are considered, such as those of their ramp-up.
        codebook_after: iterations after which all unused codes can have been revived.
        least_usage: smallest sufficient share of the codebook in use, in [0, 1].
        least_reliance: reliance on the codes, after those iterations, below which they are ignored, in [0, 1].
        least_confident: smallest sufficient share of confident pseudo-labels, in [0, 1]; 0 where the loss takes all.

    Raises:
        ValueError: ``least_usage``, ``least_reliance`` or ``least_confident`` outside [0, 1].
    """

    def __init__(
        self,
        unlabeled_after: float = 0,
        codebook_after: float = 0,
        least_usage: float = 0.1,
        least_reliance: float = 0.05,
        least_confident: float = 0.0,
    ) -> None:
        shares = {"least_usage": least_usage, "least_reliance": least_reliance, "least_confident": least_confident}
        for name, value in shares.items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {value}.")
        self.unlabeled_after = unlabeled_after
        self.codebook_after = codebook_after
        self.least_usage = least_usage
        self.least_reliance = least_reliance
        self.least_confident = least_confident
        self._said: set[str] = set()
        self._begun = 0
        self._classes: list[Tensor] = []
        self._loss: list[Tensor] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a semi-supervised trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._watch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._judge)

    def _begin(self, engine: Engine) -> None:
        self._begun = engine.state.iteration
        self._classes, self._loss = [], []

    def _watch(self, engine: Engine) -> None:
        output: Any = engine.state.output
        if output["pseudo_labels"] is None or not self._is_due(self.unlabeled_after):
            return
        # scalars on the device, without waiting for it
        if _ONE_CLASS not in self._said:
            lowest, highest = output["pseudo_labels"].labels.aminmax()
            self._classes.append(torch.stack((lowest, -highest)))
        self._loss.append(output["terms"].unlabeled_segmentation.detach())

    def _judge(self, engine: Engine) -> None:
        if engine.state.iteration - self._begun < (engine.state.epoch_length or 0):
            return
        epoch = engine.state.epoch
        if self._classes:
            lowest, highest = self._least(torch.stack(self._classes).amin(dim=0)).tolist()
            if lowest == -highest:
                self._warn(_ONE_CLASS, epoch, lowest)
        metrics = engine.state.metrics
        if self._loss and metrics.get("pseudo_label_share", 1.0) < self.least_confident:
            share, confidence = metrics["pseudo_label_share"], metrics.get("pseudo_label_confidence", math.nan)
            self._warn(_UNSURE, epoch, 100 * share, confidence)
        elif self._loss and self._least(-torch.stack(self._loss).abs().amax()).item() == 0:
            self._warn(_NO_LOSS, epoch)
        usage = metrics.get("codebook_usage", 1.0)
        if self._is_due(self.codebook_after) and usage < self.least_usage:
            self._warn(_FEW_CODES, epoch, 100 * usage)
        reliance = metrics.get("code_reliance", 1.0)
        if self._is_due(self.codebook_after) and reliance < self.least_reliance:
            self._warn(_IDLE_CODES, epoch, 100 * reliance)

    def _is_due(self, after: float) -> bool:
        return self._begun > 0 and self._begun >= after

    def _least(self, value: Tensor) -> Tensor:
        """The least value of all processes."""
        if process_count() > 1:
            torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MIN)
        return value

    def _warn(self, message: str, *values: Any) -> None:
        if message not in self._said and process_rank() == 0:
            logger.warning(message, *values)
        self._said.add(message)
