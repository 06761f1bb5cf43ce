"""The score by which a training chooses its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ignite.engine import Engine, Events
from monai.handlers import from_engine
from monai.utils import CommonKeys

from vqseg_bundle.common import gather_objects
from vqseg_bundle.handlers.case_metrics import identify_case, mean_over_classes
from vqseg_bundle.handlers.metrics import compute_class_dice

__all__ = ["MeanCaseDice"]


class MeanCaseDice:
    """Key metric of a MONAI evaluator: the overall mean Dice of ``summary.json``, before stray components are removed.

    A hallucinated or missed structure counts as 0; one that is in neither prediction nor label does not count (MONAI's
    MeanDice ignores structures missing in the label, so that hallucinations cost nothing). It reads the same output as
    :class:`~vqseg_bundle.handlers.CaseMetrics`. With several processes, each gets the mean over the cases of all; a
    case that several of them evaluated counts once.

    Args:
        num_classes: number of classes, background included.
        output_transform: as for :class:`~vqseg_bundle.handlers.CaseMetrics`.
    """

    def __init__(self, num_classes: int, output_transform: Callable[[Any], Any] | None = None) -> None:
        self.num_classes = num_classes
        self.output_transform = output_transform or from_engine([CommonKeys.PRED, CommonKeys.LABEL])
        self._cases: dict[tuple[str, str], list[float]] = {}

    def attach(self, engine: Engine, name: str) -> None:
        """Put the score into ``engine.state.metrics[name]`` after each epoch; 0 if no case has any structure."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish, name)

    def _reset(self, engine: Engine) -> None:
        self._cases = {}

    def _update(self, engine: Engine) -> None:
        preds, labels = self.output_transform(engine.state.output)
        batch: Any = engine.state.batch
        for item, pred, label in zip(batch, preds, labels, strict=True):
            self._cases[identify_case(item)] = compute_class_dice(pred, label.to(pred.device), self.num_classes)

    def _finish(self, engine: Engine, name: str) -> None:
        cases = {key: dice for share in gather_objects(self._cases) for key, dice in share.items()}
        # in the order of the evaluation, so that both are equal to the last digit
        score = mean_over_classes([cases[key] for key in sorted(cases)])
        engine.state.metrics[name] = 0.0 if score is None else score
